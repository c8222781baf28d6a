"""Starts lopower from the newer of two complete sets of files, /lopower_a and /lopower_b.

A set is whole if each file of its manifest.json has the hash that stands there. A set that is new is on trial: it is
confirmed by its first handshake (lopower/trial.py), and given up if it does not import, if its settings are wrong, if three
starts have not led to a confirmation, or if none follows within two minutes. Then the other set runs, if that is whole.
Whatever happens here, the REPL is reached.

A set may bring a program (files/): its directory is the current one then, so that its main.py runs instead of /main.py.
"""

import hashlib
import json
import os
import sys

SETS = ("lopower_a", "lopower_b")
STATE = "lopower.sets"
TRIES = 3


def whole(directory):
    """The version of a set, or None unless it is whole."""
    try:
        with open(directory + "/manifest.json") as file:
            manifest = json.load(file)
        buffer = bytearray(1024)
        for name, digest in manifest["files"].items():
            state = hashlib.sha256()
            with open(directory + "/" + name, "rb") as file:
                while True:
                    n = file.readinto(buffer)
                    if not n:
                        break
                    state.update(memoryview(buffer)[:n])
            if "".join(["%02x" % byte for byte in state.digest()]) != digest:
                return None
        return int(manifest["version"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def load(root):
    """{"confirmed": version, "rejected": version, "trial": version, "tries": count}; what is missing is 0."""
    state = {"confirmed": 0, "rejected": 0, "trial": 0, "tries": 0}
    try:
        with open(root + STATE) as file:
            state.update(json.load(file))
    except (OSError, ValueError, TypeError):
        pass
    return state


def save(root, state):
    """Written beside and renamed: a power cut leaves the old file or the new one."""
    with open(root + STATE + ".new", "w") as file:
        json.dump(state, file)
    os.rename(root + STATE + ".new", root + STATE)


def choose(root="/"):
    """The directory of the set to run, or None. Counts a start of a set on trial before it is tried."""
    state = load(root)
    found = []
    for name in SETS:
        version = whole(root + name)
        if version is not None:
            found.append((version, root + name))
    found.sort()
    if not found:
        return None
    version, directory = found[-1]
    if len(found) == 1 or version == state["confirmed"]:
        return directory
    if version == state["rejected"]:
        return found[0][1]
    if version != state["trial"]:
        state["trial"], state["tries"] = version, 0
    state["tries"] += 1
    if state["tries"] > TRIES:
        state["rejected"] = version
    try:
        save(root, state)
    except OSError:  # what cannot be counted is not tried
        return found[0][1]
    return found[0][1] if state["rejected"] == version else directory


def reject(root, directory, reason):
    """A set does not even start: the other one runs from now on."""
    state = load(root)
    state["rejected"], state["reason"] = whole(directory) or 0, reason
    save(root, state)


def is_on_trial(root, directory):
    """Whether a set has not been confirmed, and another one could run instead."""
    state = load(root)
    return state["trial"] not in (0, state["confirmed"], state["rejected"]) and state["trial"] == whole(directory)


def run(root="/"):
    """Import and start lopower; True if it was imported."""
    for _ in SETS:
        directory = choose(root)
        if directory is None:
            print("lopower: no complete set of files; install it again")
            return False
        sys.path.insert(0, directory)
        try:
            import lopower

            if not lopower.start() and is_on_trial(root, directory):
                raise ValueError(lopower.status()["state"])
            enter(directory)
            return True
        except Exception as error:
            print("lopower:", directory, "does not start:", repr(error))
            sys.path.remove(directory)
            for name in list(sys.modules):
                if name == "lopower" or name.startswith("lopower."):
                    del sys.modules[name]
            reject(root, directory, "it does not start: " + repr(error)[:60])
    return False


def enter(directory):
    """To where the program of a set is, if it has one."""
    try:
        os.chdir(directory + "/files")
        sys.path.insert(1, directory + "/files/lib")
    except OSError:
        pass


if __name__ == "__main__":
    try:
        run()
    except Exception as error:
        print("lopower:", repr(error))
