// HashiCorp's go-plugin, over gRPC. Its messages are well-known ones, so that no code has to be generated.
package main

import (
	"context"
	"io"
	"math"
	"os"
	"os/exec"

	"github.com/golang/protobuf/ptypes/wrappers"
	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

var handshake = plugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: "PLUG_BENCH", MagicCookieValue: "echo"}

const (
	echoMethod  = "/echo.Echo/Echo"
	itemsMethod = "/echo.Echo/Items"
)

type echoPlugin struct{ plugin.NetRPCUnsupportedPlugin }

func (echoPlugin) GRPCServer(_ *plugin.GRPCBroker, server *grpc.Server) error {
	server.RegisterService(&service, nil)
	return nil
}

func (echoPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, connection *grpc.ClientConn) (interface{}, error) {
	return connection, nil
}

// What a generator would have made of the service.
var service = grpc.ServiceDesc{
	ServiceName: "echo.Echo",
	Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ interface{}, _ context.Context, decode func(interface{}) error, _ grpc.UnaryServerInterceptor) (interface{}, error) {
		request := new(wrappers.BytesValue)
		if err := decode(request); err != nil {
			return nil, err
		}
		return &wrappers.BytesValue{Value: echoOf(request.Value)}, nil
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Items", ServerStreams: true, Handler: func(_ interface{}, stream grpc.ServerStream) error {
		wanted := new(wrappers.UInt64Value)
		if err := stream.RecvMsg(wanted); err != nil {
			return err
		}
		count, size := int(wanted.Value>>32), int(wanted.Value&math.MaxUint32)
		for number := 0; number < count; number++ {
			item := payloadOf(size)
			label(item, number)
			if err := stream.SendMsg(&wrappers.BytesValue{Value: item}); err != nil {
				return err
			}
		}
		return nil
	}}},
}

type loaded struct {
	client     *plugin.Client
	connection *grpc.ClientConn
}

func load() (session, error) {
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  handshake,
		Plugins:          plugin.PluginSet{"echo": &echoPlugin{}},
		Cmd:              exec.Command(os.Args[0], "plugin"),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		Logger:           hclog.NewNullLogger(),
	})
	protocol, err := client.Client()
	if err != nil {
		client.Kill()
		return nil, err
	}
	connection, err := protocol.Dispense("echo")
	if err != nil {
		client.Kill()
		return nil, err
	}
	return &loaded{client, connection.(*grpc.ClientConn)}, nil
}

func (l *loaded) echo(payload []byte) ([]byte, error) {
	reply := new(wrappers.BytesValue)
	err := l.connection.Invoke(context.Background(), echoMethod, &wrappers.BytesValue{Value: payload}, reply)
	return reply.Value, err
}

func (l *loaded) stream(items, size int, each func([]byte) error) error {
	stream, err := l.connection.NewStream(context.Background(), &service.Streams[0], itemsMethod)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&wrappers.UInt64Value{Value: uint64(items)<<32 | uint64(size)}); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		item := new(wrappers.BytesValue)
		if err := stream.RecvMsg(item); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := each(item.Value); err != nil {
			return err
		}
	}
}

func (l *loaded) close() { l.client.Kill() }

func main() {
	if len(os.Args) > 1 && os.Args[1] == "plugin" {
		plugin.Serve(&plugin.ServeConfig{
			HandshakeConfig: handshake,
			Plugins:         plugin.PluginSet{"echo": &echoPlugin{}},
			GRPCServer: func(options []grpc.ServerOption) *grpc.Server {
				return grpc.NewServer(append(options, grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32))...)
			},
			Logger: hclog.NewNullLogger(),
		})
		return
	}
	host(load)
}
