package backup

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// chunk is the size of the pieces of a stream in bytes.
const chunk = 64 << 10

// Service is the BackupService.
type Service struct {
	v1.UnimplementedBackupServiceServer
	source Source
	busy   sync.Mutex
}

// NewService returns the service of a running server.
func NewService(source Source) *Service { return &Service{source: source} }

// CreateBackup implements BackupService.
func (s *Service) CreateBackup(req *v1.CreateBackupRequest, stream grpc.ServerStreamingServer[v1.CreateBackupResponse]) error {
	if !s.busy.TryLock() {
		return errs.New(errs.Conflict, "another backup is being made").WithHint("wait until it is done")
	}
	defer s.busy.Unlock()
	m, err := s.source.Write(stream.Context(), sender{stream}, req.GetWithImages())
	if err != nil {
		return err
	}
	s.source.Log.Info("backup made", "id", m.ID, "files", len(m.Parts), "bytes", m.Size())
	return stream.Send(&v1.CreateBackupResponse{Part: &v1.CreateBackupResponse_Summary{Summary: m.Summary()}})
}

// sender sends what is written to it in pieces.
type sender struct {
	stream grpc.ServerStreamingServer[v1.CreateBackupResponse]
}

// Write implements io.Writer.
func (s sender) Write(p []byte) (int, error) {
	sent := 0
	for len(p) > 0 {
		n := min(len(p), chunk)
		if err := s.stream.Send(&v1.CreateBackupResponse{Part: &v1.CreateBackupResponse_Chunk{Chunk: p[:n]}}); err != nil {
			return sent, err
		}
		sent += n
		p = p[n:]
	}
	return sent, nil
}

// Ask makes a running server back itself up and writes the backup to w. It is Unavailable when no server listens on the socket.
func Ask(ctx context.Context, socket string, withImages bool, w io.Writer) (*v1.BackupSummary, error) {
	conn, err := grpc.NewClient("passthrough:///socket", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		return nil, errs.Wrap("ask the server for a backup", err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := v1.NewBackupServiceClient(conn).CreateBackup(ctx, &v1.CreateBackupRequest{WithImages: withImages})
	if err != nil {
		return nil, errs.FromGRPC(err)
	}
	var sum *v1.BackupSummary
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) && sum != nil {
			return sum, nil
		}
		if errors.Is(err, io.EOF) {
			return nil, errs.New(errs.Unavailable, "the server ended before the backup was whole")
		}
		if err != nil {
			return nil, errs.FromGRPC(err)
		}
		if m.GetSummary() != nil {
			sum = m.GetSummary()
		}
		if _, err := w.Write(m.GetChunk()); err != nil {
			return nil, err
		}
	}
}
