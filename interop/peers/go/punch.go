package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	ma "github.com/multiformats/go-multiaddr"
)

// punchPause is between two looks at whether the library is ready to punch holes, of which it does not tell.
const punchPause = 10 * time.Millisecond

// punching are the options of a host behind a NAT.
func punching() []libp2p.Option {
	return []libp2p.Option{libp2p.EnableHolePunching(), libp2p.ForceReachabilityPrivate()}
}

// meetRelay connects to a relay, and waits until it has told at which public address it sees our port: until then the
// library does not offer to punch holes.
func meetRelay(ctx context.Context, h host.Host, relay peer.AddrInfo) error {
	if err := h.Connect(ctx, relay); err != nil {
		return err
	}
	for !slices.Contains(h.Mux().Protocols(), holepunch.Protocol) {
		select {
		case <-ctx.Done():
			return errors.New("the relay told no public address")
		case <-time.After(punchPause):
		}
	}
	return nil
}

// tellOfDirect prints the direct connections that follow.
func tellOfDirect(h host.Host) {
	h.Network().Notify(&network.NotifyBundle{ConnectedF: func(_ network.Network, c network.Conn) {
		if !c.Stat().Limited {
			emit(object{"event": "direct", "peer": c.RemotePeer(), "address": c.RemoteMultiaddr().String()})
		}
	}})
}

// dialPunch dials a circuit from a port at which it listens, and pings over the direct connection that follows.
func dialPunch(ctx context.Context, info peer.AddrInfo, arguments []string) error {
	if len(arguments) != 1 {
		usage()
	}
	// In its address the relay is before the circuit.
	address, _ := ma.SplitFunc(info.Addrs[0], func(c ma.Component) bool { return c.Protocol().Code == ma.P_CIRCUIT })
	relay, err := peer.AddrInfoFromP2pAddr(address)
	if err != nil {
		return err
	}
	h, err := newHost(append(punching(), libp2p.ListenAddrStrings("/ip4/"+arguments[0]+"/tcp/0"))...)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := meetRelay(ctx, h, *relay); err != nil {
		return err
	}
	direct := make(chan network.Conn, 1)
	h.Network().Notify(&network.NotifyBundle{ConnectedF: func(_ network.Network, c network.Conn) {
		if c.RemotePeer() == info.ID && !c.Stat().Limited {
			select {
			case direct <- c:
			default:
			}
		}
	}})
	if err := h.Connect(network.WithAllowLimitedConn(ctx, "a hole is punched"), info); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case c := <-direct:
		// Not over the circuit, which this context does not allow.
		if result := <-ping.Ping(ctx, h, info.ID); result.Error != nil {
			return result.Error
		}
		emit(object{"direct": c.RemoteMultiaddr().String()})
		return nil
	}
}
