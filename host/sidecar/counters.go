package main

import "sync/atomic"

// counters are told by GET /.
type counters struct {
	dials, dialsFailed                              atomic.Int64
	inboundAccepted, inboundRefused, inboundDropped atomic.Int64
	udpFlows, udpDropped                            atomic.Int64
	echoAsked, echoDropped                          atomic.Int64
	dnsQuestions, unreachableSent                   atomic.Int64
}

func (c *counters) document() map[string]int64 {
	return map[string]int64{
		"dials": c.dials.Load(), "dials_failed": c.dialsFailed.Load(),
		"inbound_accepted": c.inboundAccepted.Load(), "inbound_refused": c.inboundRefused.Load(),
		"inbound_dropped": c.inboundDropped.Load(),
		"udp_flows":       c.udpFlows.Load(), "udp_dropped": c.udpDropped.Load(),
		"echo_asked": c.echoAsked.Load(), "echo_dropped": c.echoDropped.Load(),
		"dns_questions": c.dnsQuestions.Load(), "unreachable_sent": c.unreachableSent.Load(),
	}
}
