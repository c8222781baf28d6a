package main

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// Enough for bulk transfers at nearly full rate; a third of it costs two thirds of the rate.
	memoryBase = 128 << 20
	// Buffers that each node allocates and does not touch while idle. They count against the limit all the same.
	memoryPerNode = 36 << 20

	memoryInterval = time.Second
	burstBytes     = 4 << 20   // relayed since memory was given back last: worth doing it again
	quietBytes     = 128 << 10 // relayed in an interval: the burst is over
	flowBytes      = 32 << 10  // what a flow leaves behind, however little it relays
	// The stack holds 12 KB of each connection that ended until TIME-WAIT is over: after a burst memory is given back once more
	// then.
	timeWaitIntervals = int64(timeWait/memoryInterval) + 1
)

// memoryKeeper holds the heap under a limit and gives memory back to the system after bursts, which Go alone does over
// minutes.
type memoryKeeper struct {
	nodes   func() int
	relayed atomic.Int64 // bytes, all flows, both ways, and flowBytes each
}

func newMemoryKeeper(nodes func() int) *memoryKeeper { return &memoryKeeper{nodes: nodes} }

// adjust sets the limit for the present number of nodes. Nodes that come or go leave garbage behind.
func (m *memoryKeeper) adjust() {
	m.relayed.Add(burstBytes)
	debug.SetMemoryLimit(memoryBase + memoryPerNode*int64(m.nodes()))
}

func (m *memoryKeeper) run() {
	m.adjust()
	last, freed, again := int64(0), int64(0), int64(0)
	for range time.Tick(memoryInterval) {
		relayed := m.relayed.Load()
		if again--; relayed-last < quietBytes && (relayed-freed > burstBytes || again == 0) {
			if relayed-freed > burstBytes {
				again = timeWaitIntervals
			}
			// Twice: the first collection only empties the pools into their victim caches.
			debug.FreeOSMemory()
			debug.FreeOSMemory()
			freed = relayed
		}
		last = relayed
	}
}

// residentBytes is the process's resident set, 0 where the system does not say.
func residentBytes() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
