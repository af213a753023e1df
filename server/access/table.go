package access

import (
	"slices"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/mtls"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Listener is where a call comes in.
type Listener string

// The listeners of a server.
const (
	Main   Listener = "main"      // mutual TLS: agents and operators
	Enrol  Listener = "enrolment" // server certificate only
	Socket Listener = "socket"    // the root-owned Unix socket
)

// Limits of requests in bytes.
const (
	limitSmall   = 64 << 10
	limitSession = mtls.MaxSessionMessage
	limitSite    = 4 << 20 // a site file and its overlay, 1 MiB each, the files beside them, with room for names
	limitStream  = 512 << 10
)

// MaxMessage is the largest message that any method takes, in bytes.
const MaxMessage = limitSite

// Rule says who may call a method. What it does not allow is refused.
type Rule struct {
	// Listener is the only one on which the method exists.
	Listener Listener
	// Nodes lets nodes and probes in.
	Nodes bool
	// Roles are the roles of operators that are let in.
	Roles []certs.Role
	// Audit writes an entry for each call, whatever came of it. Methods that are repeated while they wait write their own.
	Audit bool
	// Secret keeps the digest of the request out of the audit log, since the request holds a secret.
	Secret bool
	// MaxMessage is the size of the largest message that the caller may send, in bytes.
	MaxMessage int
}

// Allows reports whether an operator with this role is let in.
func (r Rule) Allows(role certs.Role) bool { return slices.Contains(r.Roles, role) }

// Table maps full method names to rules. A method that is missing does not exist.
type Table map[string]Rule

// Methods returns the table of all methods of infractl.
func Methods() Table {
	all := certs.Roles()
	change := []certs.Role{certs.RoleOperator, certs.RoleAdmin}
	admin := []certs.Role{certs.RoleAdmin}
	read := func(roles ...certs.Role) Rule { return Rule{Listener: Main, Roles: roles, MaxMessage: limitSmall} }
	act := func(roles []certs.Role) Rule {
		return Rule{Listener: Main, Roles: roles, Audit: true, MaxMessage: limitSmall}
	}
	site := func(r Rule) Rule { r.MaxMessage = limitSite; return r }
	node := Rule{Listener: Main, Nodes: true, MaxMessage: limitSmall}
	enrol := Rule{Listener: Enrol, MaxMessage: limitSmall, Secret: true}
	connect := node
	connect.MaxMessage = limitSession
	renew := node
	renew.Audit = true

	stream := func(r Rule) Rule { r.MaxMessage = limitStream; return r }
	secret := func(r Rule) Rule { r.Secret, r.MaxMessage = true, limitStream; return r }
	issue := node
	issue.Audit = true
	attach := node
	attach.MaxMessage = limitStream

	return Table{
		v1.AuditService_ListAudit_FullMethodName: act([]certs.Role{certs.RoleAuditor, certs.RoleAdmin}),

		// What it sends is encrypted to the recovery key.
		v1.BackupService_CreateBackup_FullMethodName: {Listener: Socket, Audit: true, MaxMessage: limitSmall},

		v1.ConsoleService_StreamLogs_FullMethodName: act(change),
		v1.ConsoleService_Exec_FullMethodName:       stream(act(admin)),

		v1.DnsService_ListRecords_FullMethodName:  site(read(all...)),
		v1.DnsService_CheckRecords_FullMethodName: act(change),

		v1.EnrolmentService_Enrol_FullMethodName:     enrol,
		v1.EnrolmentService_Challenge_FullMethodName: enrol,
		v1.EnrolmentService_Recover_FullMethodName:   enrol,
		// It writes its own entry, which names the operator.
		v1.EnrolmentService_LoginOperator_FullMethodName: enrol,

		v1.FlowService_ListFlows_FullMethodName:  site(read(all...)),
		v1.FlowService_CheckFlows_FullMethodName: act(change),

		v1.ImageService_PushImage_FullMethodName:   stream(act(change)),
		v1.ImageService_ListImages_FullMethodName:  read(all...),
		v1.ImageService_PruneImages_FullMethodName: act(change),

		v1.InstanceService_CreateInstance_FullMethodName:    act(change),
		v1.InstanceService_ListInstances_FullMethodName:     read(all...),
		v1.InstanceService_GetInstance_FullMethodName:       read(all...),
		v1.InstanceService_SuspendInstance_FullMethodName:   act(change),
		v1.InstanceService_ResumeInstance_FullMethodName:    act(change),
		v1.InstanceService_RestartInstance_FullMethodName:   act(change),
		v1.InstanceService_ResetPassword_FullMethodName:     secret(act(change)),
		v1.InstanceService_RotateDatabase_FullMethodName:    act(change),
		v1.InstanceService_SetModules_FullMethodName:        act(change),
		v1.InstanceService_ConfigureInstance_FullMethodName: act(change),
		v1.InstanceService_RenameInstance_FullMethodName:    act(change),
		v1.InstanceService_DeleteInstance_FullMethodName:    act(change),
		v1.InstanceService_PurgeInstance_FullMethodName:     act(admin),
		v1.InstanceService_ImportInstances_FullMethodName:   act(change),
		v1.InstanceService_AuditInstances_FullMethodName:    act(change),

		v1.NodeService_ListNodes_FullMethodName:   read(all...),
		v1.NodeService_GetUsage_FullMethodName:    read(all...),
		v1.NodeService_ResumeNode_FullMethodName:  act(admin),
		v1.NodeService_GetNode_FullMethodName:     read(all...),
		v1.NodeService_GetStatus_FullMethodName:   read(all...),
		v1.NodeService_ClearNode_FullMethodName:   act(change),
		v1.NodeService_ApproveNode_FullMethodName: act(admin),
		v1.NodeService_RevokeNode_FullMethodName:  act(admin),
		v1.NodeService_ForgetNode_FullMethodName:  act(admin),

		v1.OperatorService_Login_FullMethodName:         {Listener: Socket, Audit: true, Secret: true, MaxMessage: limitSmall},
		v1.OperatorService_GetIdentity_FullMethodName:   read(all...),
		v1.OperatorService_RenewOperator_FullMethodName: act(all),
		// It writes its own entry, before the certificate is made.
		v1.OperatorService_SignSshKey_FullMethodName: read(change...),

		v1.OperatorService_AddOperator_FullMethodName:     act(admin),
		v1.OperatorService_ListOperators_FullMethodName:   read(certs.RoleAuditor, certs.RoleAdmin),
		v1.OperatorService_RemoveOperator_FullMethodName:  act(admin),
		v1.OperatorService_SetOperatorRole_FullMethodName: act(admin),

		v1.OperationService_ListOperations_FullMethodName:  read(all...),
		v1.OperationService_GetOperation_FullMethodName:    read(all...),
		v1.OperationService_WatchOperation_FullMethodName:  read(all...),
		v1.OperationService_CancelOperation_FullMethodName: act(change),
		v1.OperationService_PauseOperation_FullMethodName:  act(change),
		v1.OperationService_ResumeOperation_FullMethodName: act(change),
		v1.OperationService_RetryOperation_FullMethodName:  act(change),

		v1.RolloutService_ListRollouts_FullMethodName:  read(all...),
		v1.RolloutService_GetRollout_FullMethodName:    read(all...),
		v1.RolloutService_WatchRollout_FullMethodName:  read(all...),
		v1.RolloutService_CancelRollout_FullMethodName: act(change),
		v1.RolloutService_ReportWitness_FullMethodName: site(act(change)),

		v1.SecretService_SetSecret_FullMethodName:    secret(act(change)),
		v1.SecretService_ListSecrets_FullMethodName:  read(all...),
		v1.SecretService_RotateSecret_FullMethodName: act(change),
		v1.SecretService_RemoveSecret_FullMethodName: act(change),

		v1.SessionService_IssueCertificate_FullMethodName: issue,
		v1.SessionService_FetchSecrets_FullMethodName:     node,
		v1.SessionService_FetchImage_FullMethodName:       node,
		v1.SessionService_FetchContent_FullMethodName:     node,
		v1.SessionService_Attach_FullMethodName:           attach,

		v1.SessionService_Connect_FullMethodName:          connect,
		v1.SessionService_Confirm_FullMethodName:          node,
		v1.SessionService_RenewCertificate_FullMethodName: renew,

		v1.SiteService_CheckSite_FullMethodName:     site(read(all...)),
		v1.SiteService_PlanSite_FullMethodName:      site(read(all...)),
		v1.SiteService_ListRevisions_FullMethodName: read(all...),
		v1.SiteService_GetRevision_FullMethodName:   read(all...),
		v1.SiteService_ApplySite_FullMethodName:     site(act(change)),
		v1.SiteService_RollbackSite_FullMethodName:  act(change),

		v1.StackService_ListStacks_FullMethodName:   read(all...),
		v1.StackService_GetStack_FullMethodName:     read(all...),
		v1.StackService_RestartStack_FullMethodName: act(change),

		v1.TokenService_CreateToken_FullMethodName: act(admin),
		v1.TokenService_ListTokens_FullMethodName:  read(certs.RoleAuditor, certs.RoleOperator, certs.RoleAdmin),
		v1.TokenService_RevokeToken_FullMethodName: act(admin),

		v1.VpnService_AddPeer_FullMethodName:    act(change),
		v1.VpnService_ListPeers_FullMethodName:  read(all...),
		v1.VpnService_RemovePeer_FullMethodName: act(change),
		v1.VpnService_RotatePeer_FullMethodName: act(change),
	}
}
