package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/peer"
)

// autonat listens on an IPv4 address, dials for others, and has the servers dial it.
func autonat(arguments []string) error {
	if len(arguments) == 0 {
		usage()
	}
	h, err := newHost(
		libp2p.ListenAddrStrings(fmt.Sprintf("/ip4/%s/tcp/0", arguments[0])),
		libp2p.EnableAutoNATv2(),
	)
	if err != nil {
		return err
	}
	defer h.Close()
	changes, err := h.EventBus().Subscribe(new(event.EvtHostReachableAddrsChanged))
	if err != nil {
		return err
	}
	defer changes.Close()
	go func() {
		for change := range changes.Out() {
			known := change.(event.EvtHostReachableAddrsChanged)
			emit(object{
				"event":       "reachability",
				"reachable":   texts(known.Reachable),
				"unreachable": texts(known.Unreachable),
				"unknown":     texts(known.Unknown),
			})
		}
	}()
	emit(object{"event": "listening", "peer": h.ID(), "address": fmt.Sprintf("%s/p2p/%s", h.Addrs()[0], h.ID())})
	for _, server := range arguments[1:] {
		info, err := peer.AddrInfoFromString(server)
		if err != nil {
			return err
		}
		if err := h.Connect(context.Background(), *info); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
