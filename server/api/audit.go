package api

import (
	"context"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// How far back a search by a part of the action looks, and in what steps.
const (
	auditStep = 1000
	auditMost = 256000
)

// AuditService implements v1.AuditServiceServer. Package access writes the entry about reading the log.
type AuditService struct {
	v1.UnimplementedAuditServiceServer
	cfg Config
}

// ListAudit implements v1.AuditServiceServer.
func (s *AuditService) ListAudit(ctx context.Context, req *v1.ListAuditRequest) (*v1.ListAuditResponse, error) {
	limit := bounded(req.GetLimit(), 100, 1000)
	follow := req.GetAfterSequence() > 0
	filter := store.AuditFilter{Actor: req.GetActor(), After: int64(min(req.GetAfterSequence(), 1<<62)), Reverse: !follow, Limit: limit}
	if req.GetSince() != nil {
		filter.Since = req.GetSince().AsTime()
	}
	out := &v1.ListAuditResponse{}
	if req.GetAction() == "" {
		entries, err := s.cfg.Audit.ListAudit(ctx, filter)
		for i := range entries {
			out.Entries = append(out.Entries, auditEntry(&entries[i]))
		}
		return out, err
	}
	// The store matches whole actions only: more and more entries are read until enough of them match.
	for filter.Limit = auditStep; ; filter.Limit *= 4 {
		entries, err := s.cfg.Audit.ListAudit(ctx, filter)
		if err != nil {
			return nil, err
		}
		out.Entries = out.Entries[:0]
		for i := range entries {
			if strings.Contains(entries[i].Action, req.GetAction()) && len(out.Entries) < limit {
				out.Entries = append(out.Entries, auditEntry(&entries[i]))
			}
		}
		if len(out.Entries) == limit || len(entries) < filter.Limit || filter.Limit >= auditMost {
			return out, nil
		}
	}
}

func auditEntry(e *store.AuditEntry) *v1.AuditEntry {
	return &v1.AuditEntry{
		Sequence: uint64(e.Seq), Time: timestamppb.New(e.Time), Actor: e.Actor, Role: e.Role, Source: e.Source,
		Action: e.Action, Target: e.Target, Result: e.Result, Message: e.Message,
	}
}
