// Command peer is the go-libp2p side of the benchmark. See bench/README.md for its command line.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
)

const (
	jsonProtocol = protocol.ID("/stronghold-p2p/1.0.0")
	rawProtocol  = protocol.ID("/stronghold-p2p/raw/1.0.0")
	perfProtocol = protocol.ID("/perf/1.0.0")
	maxMessage   = 17 << 20
	warmUp       = 0.2
	dialsAtOnce  = 32
)

type object map[string]any

func main() {
	commands := map[string]func([]string) error{
		"serve": serve, "relay": relayCircuits, "measure": measure, "connect": connect,
		"many-serve": serve, "many": many, "perf-serve": perfServe, "perf": perf, "version": version,
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: peer serve | relay | measure ADDRESS | connect ADDRESS | many-serve | many ADDRESS | "+
			"perf-serve | perf ADDRESS | version")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func emit(line object) {
	_ = json.NewEncoder(os.Stdout).Encode(line)
}

// newHost is a host without limits on its resources, so that none is what is measured.
func newHost(options ...libp2p.Option) (host.Host, error) {
	manager, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(rcmgr.InfiniteLimits))
	if err != nil {
		return nil, err
	}
	return libp2p.New(append([]libp2p.Option{
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.ResourceManager(manager),
		libp2p.DisableRelay(),
	}, options...)...)
}

// Serving

func serve([]string) error {
	return serveProtocols(map[protocol.ID]network.StreamHandler{
		jsonProtocol: func(s network.Stream) { answer(s, encodeAgain) },
		rawProtocol:  func(s network.Stream) { answer(s, func(body []byte) ([]byte, error) { return body, nil }) },
	})
}

func perfServe([]string) error {
	return serveProtocols(map[protocol.ID]network.StreamHandler{perfProtocol: servePerf})
}

func serveProtocols(handlers map[protocol.ID]network.StreamHandler) error {
	return serveHost(func(h host.Host) error {
		for id, handler := range handlers {
			h.SetStreamHandler(id, handler)
		}
		return nil
	})
}

// relayCircuits is without limits, so that none is what is measured.
func relayCircuits([]string) error {
	return serveHost(func(h host.Host) error {
		_, err := relay.New(h, relay.WithInfiniteLimits())
		return err
	})
}

func serveHost(prepare func(host.Host) error) error {
	h, err := newHost(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		return err
	}
	defer h.Close()
	if err := prepare(h); err != nil {
		return err
	}
	emit(object{"address": fmt.Sprintf("%s/p2p/%s", h.Addrs()[0], h.ID())})
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func answer(s network.Stream, handle func([]byte) ([]byte, error)) {
	body, err := readMessage(bufio.NewReader(s))
	if err == nil {
		body, err = handle(body)
	}
	if err == nil {
		err = writeMessage(s, body)
	}
	if err != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

func encodeAgain(body []byte) ([]byte, error) {
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return nil, err
	}
	return json.Marshal(value)
}

func servePerf(s network.Stream) {
	var count uint64
	err := binary.Read(s, binary.BigEndian, &count)
	if err == nil {
		_, err = io.Copy(io.Discard, s)
	}
	if err == nil {
		err = sendZeros(s, count)
	}
	if err != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

// Measuring

// A dialer sends requests to one peer.
type dialer struct {
	host     host.Host
	peer     peer.ID
	protocol protocol.ID
}

func newDialer(address string, id protocol.ID) (*dialer, error) {
	info, err := peer.AddrInfoFromString(address)
	if err != nil {
		return nil, err
	}
	h, err := newHost(libp2p.NoListenAddrs)
	if err != nil {
		return nil, err
	}
	h.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.PermanentAddrTTL)
	return &dialer{h, info.ID, id}, nil
}

func (d *dialer) request(body []byte) ([]byte, error) {
	s, err := d.host.NewStream(context.Background(), d.peer, d.protocol)
	if err != nil {
		return nil, err
	}
	if err := writeMessage(s, body); err != nil {
		_ = s.Reset()
		return nil, err
	}
	response, err := readMessage(bufio.NewReader(s))
	if err != nil {
		_ = s.Reset()
		return nil, err
	}
	return response, s.Close()
}

func (d *dialer) requestJSON(value string) error {
	body, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if body, err = d.request(body); err != nil {
		return err
	}
	var response string
	if err := json.Unmarshal(body, &response); err != nil {
		return err
	}
	if len(response) != len(value) {
		return errors.New("the response is not the request's body")
	}
	return nil
}

func (d *dialer) requestRaw(body []byte) error {
	response, err := d.request(body)
	if err == nil && len(response) != len(body) {
		err = errors.New("the response is not the request's body")
	}
	return err
}

func measure(arguments []string) error {
	flags := flag.NewFlagSet("measure", flag.ExitOnError)
	size := flags.Int("size", 64, "bytes of an encoded body")
	concurrency := flags.Int("concurrency", 32, "requests in flight")
	seconds := flags.Float64("seconds", 2, "how long to measure")
	format := flags.String("format", "json", "json or raw")
	address, err := parse(flags, arguments)
	if err != nil {
		return err
	}
	id := jsonProtocol
	if *format == "raw" {
		id = rawProtocol
	}
	d, err := newDialer(address, id)
	if err != nil {
		return err
	}
	defer d.host.Close()
	text, raw := strings.Repeat("x", *size-2), make([]byte, *size)
	send := func() error {
		if *format == "raw" {
			return d.requestRaw(raw)
		}
		return d.requestJSON(text)
	}

	start := time.Now()
	if err := send(); err != nil {
		return err
	}
	connected := time.Since(start)
	figures, err := measureLoad([]func() error{send}, *size, *concurrency, *seconds)
	if err != nil {
		return err
	}
	figures["connect_ms"] = milliseconds(connected)
	emit(figures)
	return nil
}

// many connects so many hosts before the load begins, and keeps so many requests of 64 bytes in flight from each.
func many(arguments []string) error {
	flags := flag.NewFlagSet("many", flag.ExitOnError)
	peers := flags.Int("peers", 1000, "hosts, each with a connection of its own")
	each := flags.Int("each", 1, "requests in flight from each")
	seconds := flags.Float64("seconds", 2, "how long to measure")
	address, err := parse(flags, arguments)
	if err != nil {
		return err
	}
	sends := make([]func() error, *peers)
	for i := range sends {
		d, err := newDialer(address, jsonProtocol)
		if err != nil {
			return err
		}
		sends[i] = func() error { return d.requestJSON(strings.Repeat("x", 62)) }
	}
	start := time.Now()
	if err := connectAll(sends); err != nil {
		return err
	}
	connected := time.Since(start)
	figures, err := measureLoad(sends, 64, *each, *seconds)
	if err != nil {
		return err
	}
	figures["connect_all_ms"] = milliseconds(connected)
	emit(figures)
	return nil
}

func connectAll(sends []func() error) error {
	var (
		group   sync.WaitGroup
		lock    sync.Mutex
		failure error
	)
	waiting := make(chan func() error)
	for range dialsAtOnce {
		group.Go(func() {
			for send := range waiting {
				if err := send(); err != nil {
					lock.Lock()
					failure = errors.Join(failure, err)
					lock.Unlock()
				}
			}
		})
	}
	for _, send := range sends {
		waiting <- send
	}
	close(waiting)
	group.Wait()
	return failure
}

func measureLoad(sends []func() error, size, inFlight int, seconds float64) (object, error) {
	duration := time.Duration(seconds * float64(time.Second))
	if _, _, err := load(sends, inFlight, time.Duration(warmUp*float64(duration))); err != nil {
		return nil, err
	}
	emit(object{"measuring": true})
	latencies, elapsed, err := load(sends, inFlight, duration)
	if err != nil {
		return nil, err
	}
	slices.Sort(latencies)
	rate := float64(len(latencies)) / elapsed.Seconds()
	return object{
		"requests_per_second": int(rate + 0.5),
		"p50_us":              percentile(latencies, 0.50).Microseconds(),
		"p99_us":              percentile(latencies, 0.99).Microseconds(),
		"mb_per_second":       2 * float64(size) * rate / 1e6,
	}, nil
}

// load keeps so many of each of the requests in flight for a time, and gives the time that each took and that all took.
func load(sends []func() error, inFlight int, duration time.Duration) ([]time.Duration, time.Duration, error) {
	var (
		group     sync.WaitGroup
		lock      sync.Mutex
		latencies []time.Duration
		failure   error
	)
	start := time.Now()
	sendInTurn := func(send func() error) {
		var own []time.Duration
		var err error
		for now := time.Now(); err == nil && now.Sub(start) < duration; {
			sent := now
			err = send()
			now = time.Now()
			own = append(own, now.Sub(sent))
		}
		lock.Lock()
		defer lock.Unlock()
		latencies = append(latencies, own...)
		failure = errors.Join(failure, err)
	}
	for _, send := range sends {
		for range inFlight {
			group.Go(func() { sendInTurn(send) })
		}
	}
	group.Wait()
	return latencies, time.Since(start), failure
}

func connect(arguments []string) error {
	flags := flag.NewFlagSet("connect", flag.ExitOnError)
	count := flags.Int("count", 20, "connections, one after the other")
	address, err := parse(flags, arguments)
	if err != nil {
		return err
	}
	times := make([]float64, *count)
	for i := range times {
		if times[i], err = connectOnce(address); err != nil {
			return err
		}
	}
	sorted := slices.Sorted(slices.Values(times))
	emit(object{"first_ms": times[0], "connect_ms_median": sorted[len(sorted)/2], "connect_ms": times})
	return nil
}

func connectOnce(address string) (float64, error) {
	d, err := newDialer(address, jsonProtocol)
	if err != nil {
		return 0, err
	}
	defer d.host.Close()
	start := time.Now()
	err = d.requestJSON(strings.Repeat("x", 62))
	return milliseconds(time.Since(start)), err
}

func perf(arguments []string) error {
	flags := flag.NewFlagSet("perf", flag.ExitOnError)
	upload := flags.Uint64("upload", 0, "bytes to send")
	download := flags.Uint64("download", 0, "bytes to have sent back")
	address, err := parse(flags, arguments)
	if err != nil {
		return err
	}
	d, err := newDialer(address, perfProtocol)
	if err != nil {
		return err
	}
	defer d.host.Close()
	s, err := d.host.NewStream(context.Background(), d.peer, perfProtocol)
	if err != nil {
		return err
	}
	emit(object{"measuring": true})
	start := time.Now()
	if err := binary.Write(s, binary.BigEndian, *download); err != nil {
		return err
	}
	if err := sendZeros(s, *upload); err != nil {
		return err
	}
	if err := s.CloseWrite(); err != nil {
		return err
	}
	uploaded := time.Now()
	received, err := io.Copy(io.Discard, s)
	if err != nil {
		return err
	}
	if uint64(received) != *download {
		return fmt.Errorf("%d bytes came instead of %d", received, *download)
	}
	emit(object{
		"upload_seconds":   uploaded.Sub(start).Seconds(),
		"download_seconds": time.Since(uploaded).Seconds(),
	})
	return nil
}

func version([]string) error {
	info, _ := debug.ReadBuildInfo()
	line := object{"go": strings.TrimPrefix(runtime.Version(), "go")}
	for _, module := range info.Deps {
		if module.Path == "github.com/libp2p/go-libp2p" {
			line["go-libp2p"] = strings.TrimPrefix(module.Version, "v")
		}
	}
	emit(line)
	return nil
}

// Details

// parse takes the address, which comes first, and the flags after it.
func parse(flags *flag.FlagSet, arguments []string) (string, error) {
	if len(arguments) == 0 {
		return "", errors.New("an address is missing")
	}
	return arguments[0], flags.Parse(arguments[1:])
}

// writeMessage sends the length and the body in one write, which is one frame.
func writeMessage(w io.Writer, body []byte) error {
	message := make([]byte, 0, binary.MaxVarintLen64+len(body))
	message = binary.AppendUvarint(message, uint64(len(body)))
	_, err := w.Write(append(message, body...))
	return err
}

func readMessage(r *bufio.Reader) ([]byte, error) {
	length, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if length > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes", length)
	}
	body := make([]byte, length)
	_, err = io.ReadFull(r, body)
	return body, err
}

func sendZeros(w io.Writer, count uint64) error {
	chunk := make([]byte, 256<<10)
	for count > 0 {
		n, err := w.Write(chunk[:min(count, uint64(len(chunk)))])
		if err != nil {
			return err
		}
		count -= uint64(n)
	}
	return nil
}

// percentile is by the nearest rank.
func percentile(sorted []time.Duration, share float64) time.Duration {
	rank := int(share*float64(len(sorted)) + 0.999999)
	return sorted[max(rank, 1)-1]
}

func milliseconds(duration time.Duration) float64 {
	return duration.Seconds() * 1000
}
