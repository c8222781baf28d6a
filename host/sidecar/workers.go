package main

import "sync/atomic"

const maxIdleWorkers = 64

// workers run functions in goroutines that are used again: a new one's stack grows and is copied several times on the way down
// into the network stack, which was 8 % of what a short flow costs.
type workers struct {
	idle  atomic.Int64
	tasks chan func()
}

var flowWorkers = workers{tasks: make(chan func())}

// run has f run at once, in a goroutine that waits for work or a new one.
func (w *workers) run(f func()) {
	select {
	case w.tasks <- f:
	default:
		go w.work(f)
	}
}

func (w *workers) work(f func()) {
	for {
		f()
		if !enter(&w.idle, maxIdleWorkers) {
			return
		}
		f = <-w.tasks
		w.idle.Add(-1)
	}
}
