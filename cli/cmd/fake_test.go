package cmd_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/cli/client"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/jointoken"
	"github.com/infractl/infractl/internal/mtls"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	fakeSite = "projetpro"
	goodCode = "one-use-code"
)

// fakeNow is when all scripts happen, unless one moves its own clock with $NOW.
func fakeNow() time.Time { return time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC) }

// fake is a server of the real contract over real mTLS whose answers are files: dir/Service.Method.json, or
// Service.Method.N.json for the Nth call. A file holds the messages of the answer, one JSON object after the other. Objects
// with one of these keys are no messages: {"error": {"code", "message", "hint"}} ends the call, {"hang": true} waits until the
// caller gives up, {"sleep": "50ms"} waits. $NAME stands for a variable of the fake. Requests are written to a log.
type fake struct {
	ca     *certs.Authority
	addr   string
	socket string
	// enrolment is where logins with a login code come in.
	enrolment string
	answers   string
	log       string
	serve     func(net.Listener) *grpc.Server
	main      *grpc.Server

	mu    sync.Mutex
	calls map[string]int
	vars  map[string]string
}

// startFake starts a fake whose folder is dir and returns it with a function that stops it.
func startFake(dir string) (*fake, func(), error) {
	clk := clock.NewFake(fakeNow())
	ca, err := certs.Create(filepath.Join(dir, ".ca"), fakeSite, clk)
	if err != nil {
		return nil, nil, err
	}
	cert, err := mtls.NewServerCertificate(mtls.ServerCertificateConfig{Clock: clk, Logger: hclog.NewNullLogger(),
		Issue: func(pub crypto.PublicKey) (*certs.Issued, error) { return ca.IssueServer(pub, "relay", nil, nil) }})
	if err != nil {
		return nil, nil, err
	}
	f := &fake{ca: ca, answers: filepath.Join(dir, "answers"), log: filepath.Join(dir, "requests"),
		calls: map[string]int{}, vars: map[string]string{}}
	config := mtls.ServerConfig(mtls.ServerOptions{Certificate: cert.Get, Roots: ca.RootPool(), Site: fakeSite, Clock: clk, RequireClient: true})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	f.addr = listener.Addr().String()
	// The path of a Unix socket is short, and that of a script's folder need not be.
	short, err := os.MkdirTemp("", "infractl")
	if err != nil {
		return nil, nil, err
	}
	f.socket = filepath.Join(short, "admin.sock")
	local, err := net.Listen("unix", f.socket)
	if err != nil {
		return nil, nil, err
	}
	f.serve = func(l net.Listener) *grpc.Server {
		server := grpc.NewServer(append(mtls.ServerGRPC(mtls.MaxMessage), grpc.Creds(credentials.NewTLS(config)),
			grpc.UnknownServiceHandler(f.handle))...)
		go server.Serve(l)
		return server
	}
	f.main = f.serve(listener)
	// Logins from afar come without a certificate.
	open := mtls.ServerConfig(mtls.ServerOptions{Certificate: cert.Get, Roots: ca.RootPool(), Site: fakeSite, Clock: clk})
	enrolment, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	f.enrolment = enrolment.Addr().String()
	enrol := grpc.NewServer(append(mtls.ServerGRPC(mtls.MaxMessage), grpc.Creds(credentials.NewTLS(open)),
		grpc.UnknownServiceHandler(f.handle))...)
	go enrol.Serve(enrolment)
	admin := grpc.NewServer(grpc.UnknownServiceHandler(f.handle))
	go admin.Serve(local)
	return f, func() { f.main.Stop(); enrol.Stop(); admin.Stop(); os.RemoveAll(short) }, nil
}

// restart stops the server in the middle of whatever it does, and starts it again after a while.
func (f *fake) restart(after time.Duration) error {
	f.main.Stop()
	time.Sleep(after)
	listener, err := net.Listen("tcp", f.addr)
	if err != nil {
		return err
	}
	f.main = f.serve(listener)
	return nil
}

// logIn makes the folder of an operator who logged in at fakeNow.
func (f *fake) logIn(dir string) error {
	key, err := client.NewKey()
	if err != nil {
		return err
	}
	id, err := f.identity("anna", key.CSR)
	if err != nil {
		return err
	}
	return client.NewFolder(dir).Store(key, id)
}

func (f *fake) identity(name string, csr []byte) (*v1.OperatorIdentity, error) {
	issued, err := f.ca.IssueOperator(csr, name, certs.RoleAdmin, 0)
	if err != nil {
		return nil, err
	}
	return &v1.OperatorIdentity{Site: fakeSite, Name: name, Role: v1.Role_ROLE_ADMIN, CertificatePem: issued.ChainPEM,
		RootPem: f.ca.RootPEM(), ServerAddresses: []string{f.addr}, NotAfter: timestamppb.New(issued.NotAfter)}, nil
}

// loginCode returns a login code for berta, good for this server if id is "good".
func (f *fake) loginCode(id string) (string, error) {
	return jointoken.EncodeLogin(&jointoken.Token{Addresses: []string{"127.0.0.1:1", f.enrolment}, Fingerprint: f.ca.Fingerprint(), Site: fakeSite, ID: id,
		Secret: jointoken.NewSecret("a-secret-of-enough-length")})
}

func (f *fake) set(name, value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.vars[name] = value
}

func (f *fake) handle(_ any, stream grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(stream)
	name := strings.ReplaceAll(strings.TrimPrefix(full, "/infractl.v1."), "/", ".")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName("infractl.v1." + name))
	if err != nil {
		return errs.ToGRPC(errs.New(errs.Denied, "unknown method %s", name))
	}
	method := found.(protoreflect.MethodDescriptor)
	request, err := newMessage(method.Input())
	if err != nil {
		return err
	}
	if err := stream.RecvMsg(request); err != nil {
		return err
	}
	n, err := f.note(name, request)
	if err != nil {
		return err
	}
	if answer, err := f.builtIn(stream.Context(), request); answer != nil || err != nil {
		if err != nil {
			return errs.ToGRPC(err)
		}
		return stream.SendMsg(answer)
	}
	return errs.ToGRPC(f.play(stream, name, n, method.Output()))
}

func newMessage(d protoreflect.MessageDescriptor) (proto.Message, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		return nil, err
	}
	return t.New().Interface(), nil
}

// note writes a request to the log, without the contents of keys and files, and counts it.
func (f *fake) note(name string, request proto.Message) (int, error) {
	shown := proto.Clone(request)
	withoutBytes(shown.ProtoReflect())
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(shown)
	if err != nil {
		return 0, err
	}
	var line bytes.Buffer
	if err := json.Compact(&line, raw); err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[name]++
	log, err := os.OpenFile(f.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	_, err = fmt.Fprintf(log, "%s %s\n", name, line.Bytes())
	return f.calls[name], err
}

func withoutBytes(m protoreflect.Message) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Kind() == protoreflect.BytesKind:
			m.Clear(fd)
		case fd.Kind() == protoreflect.MessageKind && fd.IsList():
			for i := range v.List().Len() {
				withoutBytes(v.List().Get(i).Message())
			}
		case fd.Kind() == protoreflect.MessageKind && !fd.IsMap():
			withoutBytes(v.Message())
		}
		return true
	})
}

// builtIn answers what needs a certificate, unless a script has an answer of its own to a renewal.
func (f *fake) builtIn(ctx context.Context, request proto.Message) (proto.Message, error) {
	switch r := request.(type) {
	case *v1.LoginRequest:
		if r.GetCode() != goodCode {
			return nil, errs.New(errs.Denied, "the code is wrong, used or too old").WithHint("make a new one: infractl-server admin-code")
		}
		id, err := f.identity(r.GetName(), r.GetCsr())
		return &v1.LoginResponse{Identity: id}, err
	case *v1.LoginOperatorRequest:
		if r.GetCodeId() != "good" {
			return nil, errs.New(errs.Denied, "the code is wrong, used, or has expired").WithHint("ask an admin for a new one: infractl operator add NAME")
		}
		id, err := f.identity("berta", r.GetCsr())
		return &v1.LoginOperatorResponse{Identity: id, ServerTime: timestamppb.New(fakeNow())}, err
	case *v1.SignSshKeyRequest:
		if _, err := os.Stat(filepath.Join(f.answers, "OperatorService.SignSshKey.json")); err == nil {
			return nil, nil
		}
		return f.signSSH(r)
	case *v1.RenewOperatorRequest:
		if _, err := os.Stat(filepath.Join(f.answers, "OperatorService.RenewOperator.json")); err == nil {
			return nil, nil
		}
		if err := signedByCaller(ctx, r.GetCsr()); err != nil {
			return nil, err
		}
		id, err := f.identity("anna", r.GetCsr())
		return &v1.RenewOperatorResponse{Identity: id}, err
	}
	return nil, nil
}

// signedByCaller refuses, as the server does, a request by another key than that of the caller's certificate.
func signedByCaller(ctx context.Context, der []byte) error {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return errs.New(errs.Invalid, "the certificate request cannot be read: %w", err)
	}
	caller, ok := peer.FromContext(ctx)
	if !ok {
		return errs.New(errs.Unauthenticated, "no caller")
	}
	chain := caller.AuthInfo.(credentials.TLSInfo).State.PeerCertificates
	if !chain[0].PublicKey.(*ecdsa.PublicKey).Equal(csr.PublicKey) {
		return errs.New(errs.Denied, "a renewal must be signed by the key of the present certificate")
	}
	return nil
}

func (f *fake) play(stream grpc.ServerStream, name string, n int, output protoreflect.MessageDescriptor) error {
	content, err := os.ReadFile(filepath.Join(f.answers, fmt.Sprintf("%s.%d.json", name, n)))
	if errors.Is(err, fs.ErrNotExist) {
		content, err = os.ReadFile(filepath.Join(f.answers, name+".json"))
	}
	if err != nil {
		return errs.New(errs.Internal, "no answer: %w", err)
	}
	f.mu.Lock()
	text := os.Expand(string(content), func(v string) string { return f.vars[v] })
	f.mu.Unlock()
	for dec := json.NewDecoder(strings.NewReader(text)); ; {
		var raw json.RawMessage
		if err := dec.Decode(&raw); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if done, err := direct(stream.Context(), raw); err != nil {
			return err
		} else if done {
			continue
		}
		answer, err := newMessage(output)
		if err != nil {
			return err
		}
		if err := protojson.Unmarshal(raw, answer); err != nil {
			return err
		}
		if err := stream.SendMsg(answer); err != nil {
			return err
		}
	}
}

// direct follows a stage direction; done says that raw was one.
func direct(ctx context.Context, raw []byte) (done bool, err error) {
	var d struct {
		Error *struct {
			Code          errs.Code
			Message, Hint string
		}
		Hang  bool
		Sleep string
	}
	if json.Unmarshal(raw, &d) != nil {
		return false, nil
	}
	switch {
	case d.Error != nil && d.Error.Code != "":
		return true, errs.New(d.Error.Code, "%s", d.Error.Message).WithHint("%s", d.Error.Hint)
	case d.Hang:
		<-ctx.Done()
		return true, ctx.Err()
	case d.Sleep != "":
		wait, err := time.ParseDuration(d.Sleep)
		time.Sleep(wait)
		return true, err
	}
	return false, nil
}
