// Runs Python steps on MicroPython's WebAssembly build and tells what each left on the heap.
//
// standard input: {"module": path of micropython.mjs, "files": {path: base64}, "steps": [{"name", "code"}]}; a step is
// run again until its global `done` is true, if it sets one to false. Output: [{"name", "bytes", "most"}] as JSON: after
// the step, and at most after one of its runs, of those that leave its global `counts` true, if it sets one.
// Garbage is collected between the steps and turns, since that build can do it nowhere else.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const task = JSON.parse(readFileSync(0, "utf8"));
const { loadMicroPython } = await import(pathToFileURL(task.module));
const lines = [];
const python = await loadMicroPython({
  heapsize: 8 << 20,
  stdout: (line) => lines.push(line),
  linebuffer: true,
});
const { FS } = python;
for (const [path, content] of Object.entries(task.files)) {
  FS.mkdirTree(path.slice(0, path.lastIndexOf("/")) || "/");
  FS.writeFile(path, Buffer.from(content, "base64"));
}

function heap() {
  python.runPython("import gc\ngc.collect()");
  python.runPython("gc.collect()");
  python.runPython("print('heap', gc.mem_alloc())");
  return Number(lines.pop().split(" ")[1]);
}

heap();
const results = [{ name: "", bytes: heap() }];
for (const step of task.steps) {
  let most = 0;
  for (;;) {
    python.runPython(`${step.code}\nprint(globals().get('counts', True), globals().get('done', True))`);
    const [counts, done] = lines.pop().split(" ");
    const bytes = heap();
    if (counts === "True") most = Math.max(most, bytes);
    if (done === "True") break;
  }
  results.push({ name: step.name, bytes: heap(), most });
}
console.log(JSON.stringify({ results, lines }));
process.exit(0);
