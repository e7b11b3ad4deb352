// What the two candidates in Go have in common: a host that does, on command, what the benchmark asks for, and prints
// the times. It is started by the benchmark, which cannot load a plugin in Go itself.
//
// A command is a line: its name, the number of calls, of callers, the size of a message in bytes and the pause before
// each call in microseconds. The answer is a line of microseconds, or one that begins with "error".
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A plugin that was started.
type session interface {
	echo(payload []byte) ([]byte, error)
	// Calls each for every item.
	stream(items, size int, each func(item []byte) error) error
	close()
}

// What a plugin answers with its process id.
const whoAreYou = "pid"

func echoOf(payload []byte) []byte {
	if string(payload) == whoAreYou {
		return []byte(fmt.Sprint(os.Getpid()))
	}
	return payload
}

func payloadOf(size int) []byte {
	payload := make([]byte, size)
	for index := range payload {
		payload[index] = byte('a' + index%26)
	}
	return payload
}

// Writes the number into the first eight bytes.
func label(item []byte, number int) {
	for digit := 0; digit < 8; digit++ {
		item[digit] = byte('a' + number>>(4*digit)&15)
	}
}

// Serves the benchmark until its end.
func host(start func() (session, error)) {
	// The benchmark may be killed.
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0); errno != 0 {
		panic(errno)
	}
	plugin, err := start()
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	defer plugin.close()
	pid, err := plugin.echo([]byte(whoAreYou))
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println(string(pid))
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		times, err := obey(input.Text(), plugin, start)
		if err != nil {
			fmt.Println("error:", err)
			continue
		}
		var line strings.Builder
		for _, each := range times {
			fmt.Fprintf(&line, "%.3f ", each)
		}
		fmt.Println(strings.TrimSpace(line.String()))
	}
}

func obey(line string, plugin session, start func() (session, error)) ([]float64, error) {
	var what string
	var calls, callers, size, pause int
	if _, err := fmt.Sscan(line, &what, &calls, &callers, &size, &pause); err != nil {
		return nil, err
	}
	payload := payloadOf(size)
	switch what {
	case "echo":
		return oneByOne(plugin, payload, calls, time.Duration(pause)*time.Microsecond)
	case "callers":
		return byMany(plugin, payload, calls, callers)
	case "stream":
		return items(plugin, payload, calls)
	case "start":
		return starts(payload, calls, start)
	}
	return nil, fmt.Errorf("there is no command %s", what)
}

func once(plugin session, payload []byte) error {
	reply, err := plugin.echo(payload)
	if err == nil && !bytes.Equal(reply, payload) {
		err = fmt.Errorf("a reply differs from its request")
	}
	return err
}

func oneByOne(plugin session, payload []byte, calls int, pause time.Duration) ([]float64, error) {
	times := make([]float64, 0, calls)
	for len(times) < calls {
		if pause > 0 {
			time.Sleep(pause)
		}
		begin := time.Now()
		if err := once(plugin, payload); err != nil {
			return nil, err
		}
		times = append(times, micros(time.Since(begin)))
	}
	return times, nil
}

// The time of each so many calls over their number, whoever made them.
func byMany(plugin session, payload []byte, calls, callers int) ([]float64, error) {
	var all sync.Mutex
	var ends []time.Time
	var failed error
	var running sync.WaitGroup
	begin := time.Now()
	for caller := 0; caller < callers; caller++ {
		running.Add(1)
		go func() {
			defer running.Done()
			own := make([]time.Time, 0, calls/callers)
			var err error
			for len(own) < calls/callers && err == nil {
				err = once(plugin, payload)
				own = append(own, time.Now())
			}
			all.Lock()
			defer all.Unlock()
			ends = append(ends, own...)
			if err != nil {
				failed = err
			}
		}()
	}
	running.Wait()
	sort.Slice(ends, func(one, other int) bool { return ends[one].Before(ends[other]) })
	return shares(begin, ends), failed
}

// One time for all of a stream: items come in bursts.
func items(plugin session, expected []byte, count int) ([]float64, error) {
	received := 0
	begin := time.Now()
	err := plugin.stream(count, len(expected), func(item []byte) error {
		label(expected, received)
		if !bytes.Equal(item, expected) {
			return fmt.Errorf("item %d of a stream is not what was sent", received)
		}
		received++
		return nil
	})
	if err == nil && received != count {
		err = fmt.Errorf("a stream has ended after %d items", received)
	}
	return []float64{micros(time.Since(begin)) / float64(count)}, err
}

func starts(payload []byte, count int, start func() (session, error)) ([]float64, error) {
	var times []float64
	for len(times) < count {
		begin := time.Now()
		plugin, err := start()
		if err != nil {
			return nil, err
		}
		defer plugin.close()
		if err := once(plugin, payload); err != nil {
			return nil, err
		}
		times = append(times, micros(time.Since(begin)))
	}
	return times, nil
}

func shares(begin time.Time, ends []time.Time) []float64 {
	batch := max(len(ends)/20, 1)
	var times []float64
	for last := batch; last <= len(ends); last += batch {
		end := ends[last-1]
		times = append(times, micros(end.Sub(begin))/float64(batch))
		begin = end
	}
	return times
}

func micros(duration time.Duration) float64 {
	return float64(duration.Nanoseconds()) / 1e3
}

func max(one, other int) int {
	if one > other {
		return one
	}
	return other
}
