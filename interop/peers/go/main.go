// Command peer is a go-libp2p peer to test against. See interop/README.md for its command line.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	circuit "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/websocket"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"
)

const (
	requestProtocol = protocol.ID("/stronghold-p2p/1.0.0")
	perfProtocol    = protocol.ID("/perf/1.0.0")
	maxMessage      = 17 << 20
	dialTimeout     = 60 * time.Second
)

type object map[string]any

// errNoResponse is a stream that was closed in order without a byte of response.
var errNoResponse = errors.New("no response")

// failures are those of a burst.
type failures struct {
	ok    int
	kinds map[string]int
}

func (f failures) Error() string {
	return "requests failed"
}

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	var err error
	switch os.Args[1] {
	case "listen":
		err = listen(os.Args[2:])
	case "dial":
		err = dial(os.Args[2:])
	case "autonat":
		err = autonat(os.Args[2:])
	default:
		usage()
	}
	if err == nil {
		return
	}
	line := object{"error": err.Error()}
	var failed failures
	if errors.As(err, &failed) {
		line["ok"], line["failures"] = failed.ok, failed.kinds
	}
	emit(line)
	os.Exit(1)
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: peer listen [OPTION]... | peer dial ADDRESS COMMAND [ARGUMENT]... | peer autonat IP [SERVER]...")
	os.Exit(2)
}

var stdout sync.Mutex

func emit(line object) {
	stdout.Lock()
	defer stdout.Unlock()
	_ = json.NewEncoder(os.Stdout).Encode(line)
}

func newHost(options ...libp2p.Option) (host.Host, error) {
	return libp2p.New(append([]libp2p.Option{
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.EnableRelay(),
		libp2p.UserAgent("go-libp2p"),
	}, options...)...)
}

// Listening

func listen(arguments []string) error {
	flags := flag.NewFlagSet("listen", flag.ExitOnError)
	flags.String("handler", "echo", "what answers requests; there is only echo")
	reject := flags.Bool("reject", false, "close each request without a byte of response")
	noProtocol := flags.Bool("no-protocol", false, "do not offer the request protocol")
	delay := flags.Int("delay-ms", 0, "wait before each response")
	highLimits := flags.Bool("high-limits", false, "no limits on streams")
	perf := flags.Bool("perf", false, "serve /perf/1.0.0")
	ws := flags.Bool("ws", false, "listen for WebSocket, not TCP")
	certificate := flags.String("certificate", "", "listen for WebSocket over TLS, with this chain")
	key := flags.String("key", "", "the chain's private key")
	relay := flags.Bool("relay", false, "be a relay, too")
	viaRelay := flags.String("via-relay", "", "reserve at this relay, and be dialed through it")
	punch := flags.String("punch", "", "listen on this IPv4 address, and punch holes for those that dial us through the relay")
	discovery := flags.String("mdns", "", "listen on this IPv4 address, announce it and discover by mDNS")
	_ = flags.Parse(arguments)

	ip := cmp.Or(*discovery, *punch, "127.0.0.1")
	address := "/ip4/" + ip + "/tcp/0"
	var webSocket []any
	if *ws {
		address += "/ws"
	}
	if *certificate != "" {
		address += "/tls/ws"
		pair, err := tls.LoadX509KeyPair(*certificate, *key)
		if err != nil {
			return err
		}
		webSocket = append(webSocket, websocket.WithTLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}}))
	}
	options := []libp2p.Option{libp2p.ListenAddrStrings(address), libp2p.Transport(websocket.New, webSocket...)}
	if *highLimits {
		manager, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(rcmgr.InfiniteLimits))
		if err != nil {
			return err
		}
		options = append(options, libp2p.ResourceManager(manager))
	}
	if *relay {
		// The default is to tell public addresses alone, and of no address rust-libp2p makes a failure.
		everywhere := circuit.WithReservationAddressFilter(func(ma.Multiaddr) bool { return true })
		options = append(options, libp2p.EnableRelayService(everywhere), libp2p.ForceReachabilityPublic())
	}
	if *punch != "" {
		options = append(options, punching()...)
	}
	h, err := newHost(options...)
	if err != nil {
		return err
	}
	defer h.Close()
	if !*noProtocol {
		h.SetStreamHandler(requestProtocol, func(s network.Stream) {
			serveRequest(s, *reject, time.Duration(*delay)*time.Millisecond)
		})
	}
	if *perf {
		h.SetStreamHandler(perfProtocol, servePerf)
	}
	dialable := h.Addrs()[0].String()
	if *viaRelay != "" {
		info, err := peer.AddrInfoFromString(*viaRelay)
		if err != nil {
			return err
		}
		connect := h.Connect
		if *punch != "" {
			connect = func(ctx context.Context, relay peer.AddrInfo) error { return meetRelay(ctx, h, relay) }
		}
		if err := connect(context.Background(), *info); err != nil {
			return err
		}
		if _, err := client.Reserve(context.Background(), h, *info); err != nil {
			return err
		}
		dialable = *viaRelay + "/p2p-circuit"
	}
	emit(object{"event": "listening", "peer": h.ID(), "address": fmt.Sprintf("%s/p2p/%s", dialable, h.ID())})
	if *punch != "" {
		tellOfDirect(h)
	}
	if *discovery != "" {
		service := mdns.NewMdnsService(h, "", discovered{})
		if err := service.Start(); err != nil {
			return err
		}
		defer service.Close()
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

type discovered struct{}

func (discovered) HandlePeerFound(info peer.AddrInfo) {
	emit(object{"event": "discovered", "peer": info.ID, "addresses": texts(info.Addrs)})
}

func serveRequest(s network.Stream, reject bool, delay time.Duration) {
	reader := bufio.NewReader(s)
	body, err := readMessage(reader)
	if err != nil {
		_ = s.Reset()
		return
	}
	if delay > 0 {
		emit(object{"event": "request"})
		if resetWithin(reader, delay) {
			emit(object{"event": "request_reset"})
			return
		}
	}
	if !reject && writeMessage(s, body) != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

// resetWithin tells if the stream was reset before the time was up.
func resetWithin(reader io.Reader, delay time.Duration) bool {
	reset := make(chan bool, 1)
	go func() {
		_, err := io.Copy(io.Discard, reader)
		reset <- errors.Is(err, network.ErrReset)
	}()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false
	case wasReset := <-reset:
		if !wasReset {
			<-timer.C
		}
		return wasReset
	}
}

func servePerf(s network.Stream) {
	var count uint64
	if binary.Read(s, binary.BigEndian, &count) != nil {
		_ = s.Reset()
		return
	}
	if _, err := io.Copy(io.Discard, s); err != nil {
		_ = s.Reset()
		return
	}
	if _, err := io.CopyN(s, zeros{}, int64(count)); err != nil {
		_ = s.Reset()
		return
	}
	_ = s.CloseWrite()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// Dialing

func dial(arguments []string) error {
	if len(arguments) < 2 {
		usage()
	}
	info, err := peer.AddrInfoFromString(arguments[0])
	if err != nil {
		return err
	}
	command, rest := arguments[1], arguments[2:]
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	if command == "punch" {
		return dialPunch(ctx, *info, rest)
	}
	h, err := newHost(libp2p.NoListenAddrs, libp2p.Transport(websocket.New))
	if err != nil {
		return err
	}
	defer h.Close()
	h.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.PermanentAddrTTL)
	ctx = network.WithAllowLimitedConn(ctx, "requests are small")

	switch command {
	case "ping":
		return dialPing(ctx, h, info.ID, rest)
	case "identify":
		return dialIdentify(ctx, h, *info)
	case "request":
		return dialRequest(ctx, h, info.ID, rest)
	case "burst":
		return dialBurst(ctx, h, info.ID, rest)
	case "large":
		return dialLarge(ctx, h, info.ID, rest)
	case "cancel":
		return dialCancel(ctx, h, info.ID, rest)
	case "perf":
		return dialPerf(ctx, h, info.ID, rest)
	}
	usage()
	return nil
}

func dialPing(ctx context.Context, h host.Host, id peer.ID, arguments []string) error {
	count := 1
	if len(arguments) > 0 {
		count, _ = strconv.Atoi(arguments[0])
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := ping.Ping(ctx, h, id)
	for range count {
		result, open := <-results
		if !open {
			return errors.New("ping stream ended")
		}
		if result.Error != nil {
			return result.Error
		}
		emit(object{"rtt_ms": milliseconds(result.RTT)})
	}
	return nil
}

func dialIdentify(ctx context.Context, h host.Host, info peer.AddrInfo) error {
	subscription, err := h.EventBus().Subscribe([]any{
		new(event.EvtPeerIdentificationCompleted), new(event.EvtPeerIdentificationFailed),
	})
	if err != nil {
		return err
	}
	defer subscription.Close()
	if err := h.Connect(ctx, info); err != nil {
		return err
	}
	var told any
	select {
	case <-ctx.Done():
		return ctx.Err()
	case told = <-subscription.Out():
	}
	if failed, ok := told.(event.EvtPeerIdentificationFailed); ok {
		return failed.Reason
	}
	identified := told.(event.EvtPeerIdentificationCompleted)
	line := object{
		"agent":         identified.AgentVersion,
		"protocols":     identified.Protocols,
		"listen_addrs":  texts(identified.ListenAddrs),
		"observed_addr": nil,
		"signed_record": identified.SignedPeerRecord != nil,
	}
	if identified.ObservedAddr != nil {
		line["observed_addr"] = identified.ObservedAddr.String()
	}
	emit(line)
	return nil
}

func texts(addresses []ma.Multiaddr) []string {
	result := make([]string, 0, len(addresses))
	for _, address := range addresses {
		result = append(result, address.String())
	}
	return result
}

func dialRequest(ctx context.Context, h host.Host, id peer.ID, arguments []string) error {
	if len(arguments) != 1 {
		usage()
	}
	body, err := readBody(arguments[0])
	if err != nil {
		return err
	}
	response, err := request(ctx, h, id, body)
	if kind := outcome(err); kind != "" {
		emit(object{"outcome": kind})
		return nil
	}
	if err != nil {
		return err
	}
	if !json.Valid(response) {
		return errors.New("the response is not JSON")
	}
	emit(object{"response": json.RawMessage(response)})
	return nil
}

func readBody(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(file)
}

func dialBurst(ctx context.Context, h host.Host, id peer.ID, arguments []string) error {
	flags := flag.NewFlagSet("burst", flag.ExitOnError)
	size := flags.Int("size", 64, "bytes of each request")
	concurrency := flags.String("concurrency", "all", "requests at once")
	if len(arguments) == 0 {
		usage()
	}
	count, err := strconv.Atoi(arguments[0])
	if err != nil {
		return err
	}
	_ = flags.Parse(arguments[1:])
	atOnce := count
	if *concurrency != "all" {
		if atOnce, err = strconv.Atoi(*concurrency); err != nil {
			return err
		}
	}

	turns := make(chan struct{}, atOnce)
	results := make(chan error, count)
	for i := range count {
		go func() {
			turns <- struct{}{}
			results <- roundTrip(ctx, h, id, jsonString(i, *size))
			<-turns
		}()
	}
	failed := failures{kinds: map[string]int{}}
	for range count {
		if err := <-results; err != nil {
			failed.kinds[kind(err)]++
		} else {
			failed.ok++
		}
	}
	if failed.ok < count {
		return failed
	}
	emit(object{"ok": count})
	return nil
}

func dialLarge(ctx context.Context, h host.Host, id peer.ID, arguments []string) error {
	if len(arguments) != 1 {
		usage()
	}
	size, err := strconv.Atoi(arguments[0])
	if err != nil {
		return err
	}
	start := time.Now()
	if err := roundTrip(ctx, h, id, jsonString(0, size)); err != nil {
		return err
	}
	emit(object{"ok": true, "seconds": time.Since(start).Seconds()})
	return nil
}

func dialCancel(ctx context.Context, h host.Host, id peer.ID, arguments []string) error {
	delay := 0
	if len(arguments) > 0 {
		delay, _ = strconv.Atoi(arguments[0])
	}
	s, err := h.NewStream(ctx, id, requestProtocol)
	if err != nil {
		return err
	}
	if err := writeMessage(s, jsonString(0, 64)); err != nil {
		return err
	}
	connection := s.Conn()
	time.Sleep(time.Duration(delay) * time.Millisecond)
	if err := s.Reset(); err != nil {
		return err
	}
	if err := roundTrip(ctx, h, id, jsonString(1, 64)); err != nil {
		return err
	}
	if now := h.Network().ConnsToPeer(id); len(now) != 1 || now[0] != connection {
		return errors.New("not the same connection")
	}
	emit(object{"ok": true})
	return nil
}

func dialPerf(ctx context.Context, h host.Host, id peer.ID, arguments []string) error {
	flags := flag.NewFlagSet("perf", flag.ExitOnError)
	upload := flags.Int64("upload", 0, "bytes")
	download := flags.Int64("download", 0, "bytes")
	_ = flags.Parse(arguments)

	s, err := h.NewStream(ctx, id, perfProtocol)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := binary.Write(s, binary.BigEndian, uint64(*download)); err != nil {
		return err
	}
	if _, err := io.CopyN(s, zeros{}, *upload); err != nil {
		return err
	}
	if err := s.CloseWrite(); err != nil {
		return err
	}
	// The server reads to the end before it sends: its first byte, or its end, tells when the upload had arrived.
	first, err := io.CopyN(io.Discard, s, min(*download, 1))
	if err != nil {
		return err
	}
	uploaded := time.Now()
	rest, err := io.Copy(io.Discard, s)
	if err != nil {
		return err
	}
	if first+rest != *download {
		return fmt.Errorf("%d bytes came, not %d", first+rest, *download)
	}
	emit(object{
		"upload_seconds":   uploaded.Sub(start).Seconds(),
		"download_seconds": time.Since(uploaded).Seconds(),
	})
	return nil
}

// Requests

func roundTrip(ctx context.Context, h host.Host, id peer.ID, body []byte) error {
	response, err := request(ctx, h, id, body)
	if err == nil && !bytes.Equal(response, body) {
		return errors.New("mismatch")
	}
	return err
}

func request(ctx context.Context, h host.Host, id peer.ID, body []byte) ([]byte, error) {
	s, err := h.NewStream(ctx, id, requestProtocol)
	if err != nil {
		return nil, err
	}
	response, err := exchange(ctx, s, body)
	if err != nil && !errors.Is(err, errNoResponse) {
		_ = s.Reset()
		return nil, err
	}
	_ = s.Close()
	return response, err
}

func exchange(ctx context.Context, s network.Stream, body []byte) ([]byte, error) {
	deadline, _ := ctx.Deadline()
	_ = s.SetDeadline(deadline)
	if err := writeMessage(s, body); err != nil {
		return nil, err
	}
	if err := s.CloseWrite(); err != nil {
		return nil, err
	}
	return readMessage(bufio.NewReader(s))
}

func writeMessage(w io.Writer, body []byte) error {
	_, err := w.Write(append(binary.AppendUvarint(nil, uint64(len(body))), body...))
	return err
}

func readMessage(reader *bufio.Reader) ([]byte, error) {
	length, err := binary.ReadUvarint(reader)
	if err == io.EOF {
		return nil, errNoResponse
	}
	if err != nil {
		return nil, err
	}
	if length > maxMessage {
		return nil, fmt.Errorf("message of %d bytes", length)
	}
	body := make([]byte, length)
	_, err = io.ReadFull(reader, body)
	return body, err
}

// outcome names what a requester is told apart from an answer, and is empty for any other error.
func outcome(err error) string {
	var notSupported multistream.ErrNotSupported[protocol.ID]
	switch {
	case errors.Is(err, errNoResponse):
		return "no_response"
	case errors.As(err, &notSupported):
		return "not_supported"
	case errors.Is(err, network.ErrReset):
		return "reset"
	}
	return ""
}

func kind(err error) string {
	if kind := outcome(err); kind != "" {
		return kind
	}
	return err.Error()
}

// jsonString gives a JSON string of size bytes, quotes included, that tells i.
func jsonString(i, size int) []byte {
	text := strconv.Itoa(i) + ":"
	return []byte(`"` + text + strings.Repeat("x", max(0, size-len(text)-2)) + `"`)
}

func milliseconds(d time.Duration) float64 {
	return float64(d) / float64(time.Millisecond)
}
