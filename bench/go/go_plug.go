// The original plug, by Elliot Morrison-Reed. What its generator would have made is written by hand, for a well-known
// message.
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/elliotmr/plug/pkg/runtime"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	echoService runtime.Service = 0
	magic                       = "echo"
	version                     = 1
	base        runtime.Service = 0
)

type echoPlugin struct{}

func (echoPlugin) Link(service runtime.Service) (proto.Message, runtime.GenPluginMethod, error) {
	if service != echoService {
		return nil, nil, fmt.Errorf("unknown service: %d", service)
	}
	return &wrapperspb.BytesValue{}, func(request proto.Message) (proto.Message, error) {
		return &wrapperspb.BytesValue{Value: echoOf(request.(*wrapperspb.BytesValue).Value)}, nil
	}, nil
}

type loaded struct {
	host *runtime.Host
	pid  int
}

// A link of this name to the program is the plugin: the runtime starts plugins without arguments.
const pluginSuffix = "-plugin"

func load() (session, error) {
	host, err := runtime.Load(os.Args[0]+pluginSuffix, magic, version, base)
	if err != nil {
		return nil, err
	}
	plugin := &loaded{host: host}
	pid, err := plugin.echo([]byte(whoAreYou))
	if err != nil {
		return nil, err
	}
	plugin.pid, err = strconv.Atoi(string(pid))
	return plugin, err
}

func (l *loaded) echo(payload []byte) ([]byte, error) {
	reply := &wrapperspb.BytesValue{}
	err := l.host.SendRecv(echoService, &wrapperspb.BytesValue{Value: payload}, reply)
	return reply.Value, err
}

func (l *loaded) stream(int, int, func([]byte) error) error {
	return fmt.Errorf("it has no streams")
}

// Its runtime does not end a plugin.
func (l *loaded) close() {
	syscall.Kill(l.pid, syscall.SIGKILL)
	var status syscall.WaitStatus
	syscall.Wait4(l.pid, &status, 0, nil)
}

func main() {
	if strings.HasSuffix(os.Args[0], pluginSuffix) {
		if err := runtime.Run(echoPlugin{}, magic, version, base); err != nil {
			os.Exit(1)
		}
		return
	}
	host(load)
}
