//go:build integration

package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	_ "google.golang.org/genproto/googleapis/rpc/errdetails" // so that the details of errors can be read
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

const controlSocket = "unix:///run/anteroom/control.sock"

// grpcurl makes gRPC calls by the grpcurl command in a container of the project, for the generated clients: requests go as JSON in its
// arguments, answers and errors are read from the JSON that it prints.
type grpcurl struct {
	p *project
}

// Invoke makes a call with one answer.
func (g *grpcurl) Invoke(ctx context.Context, method string, request, response any, _ ...grpc.CallOption) error {
	cmd, err := g.command(ctx, method, request)
	if err != nil {
		return err
	}
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return failure(err, complaints.String())
	}
	return unmarshal(out.Bytes(), response)
}

func (g *grpcurl) command(ctx context.Context, method string, request any, flags ...string) (*exec.Cmd, error) {
	message, ok := request.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", request)
	}
	body, err := protojson.Marshal(message)
	if err != nil {
		return nil, err
	}
	args := append([]string{"run", "--rm", "--no-deps", "-T", "grpcurl", "-format-error"}, flags...)
	args = append(args, "-d", string(body), controlSocket, strings.TrimPrefix(method, "/"))
	return g.p.composeCommand(ctx, args...), nil
}

func unmarshal(text []byte, into any) error {
	message, ok := into.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", into)
	}
	return protojson.Unmarshal(text, message)
}

// failure is the status that grpcurl prints, or err if there is none. Compose may print something before it and after.
func failure(err error, complaints string) error {
	var object json.RawMessage
	var said rpcstatus.Status
	begin := max(strings.Index(complaints, "{"), 0)
	none := json.NewDecoder(strings.NewReader(complaints[begin:])).Decode(&object)
	if none != nil || protojson.Unmarshal(object, &said) != nil {
		return fmt.Errorf("%w\n%s", err, complaints)
	}
	return status.ErrorProto(&said)
}

// NewStream makes a call with many answers. It ends with the context; whoever has begun it receives until there is an error.
func (g *grpcurl) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return &answers{grpcurl: g, ctx: ctx, method: method}, nil
}

// answers is a running grpcurl -v. What it prints, in this order: what it is going to ask, the response's headers, and each answer.
type answers struct {
	grpcurl    *grpcurl
	ctx        context.Context
	method     string
	cmd        *exec.Cmd
	lines      *bufio.Scanner
	complaints bytes.Buffer
}

func (a *answers) Context() context.Context     { return a.ctx }
func (a *answers) Trailer() metadata.MD         { return nil }
func (a *answers) CloseSend() error             { return nil }
func (a *answers) headersCome(line string) bool { return line == "Response headers received:" }

// SendMsg makes the call with its only request.
func (a *answers) SendMsg(request any) (err error) {
	if a.cmd, err = a.grpcurl.command(a.ctx, a.method, request, "-v"); err != nil {
		return err
	}
	// Compose removes the container when it is interrupted, not when it is killed.
	a.cmd.Cancel = func() error { return a.cmd.Process.Signal(os.Interrupt) }
	a.cmd.Stderr = &a.complaints
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	a.lines = bufio.NewScanner(out)
	return a.cmd.Start()
}

// Header returns once the headers have come. It does not say what is in them.
func (a *answers) Header() (metadata.MD, error) {
	for a.lines.Scan() {
		if a.headersCome(a.lines.Text()) {
			return nil, nil
		}
	}
	return nil, a.end()
}

// RecvMsg reads the next answer: the lines from one that opens an object to one that closes it, without indentation.
func (a *answers) RecvMsg(response any) error {
	var text bytes.Buffer
	for a.lines.Scan() {
		line := a.lines.Text()
		if text.Len() > 0 || strings.HasPrefix(line, "{") {
			text.WriteString(line)
		}
		if text.Len() > 0 && (line == "}" || line == "{}") {
			return unmarshal(text.Bytes(), response)
		}
	}
	return a.end()
}

// end is why there are no more answers.
func (a *answers) end() error {
	err := errors.Join(a.lines.Err(), a.cmd.Wait())
	switch {
	case a.ctx.Err() != nil:
		return context.Cause(a.ctx)
	case err != nil:
		return failure(err, a.complaints.String())
	}
	return io.EOF
}
