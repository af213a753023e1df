package site

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/infractl/infractl/internal/site/sitefile"
	"github.com/infractl/infractl/internal/site/yamltree"
)

// backupTarget is where a copy of the backups goes.
type backupTarget struct {
	name string
	// host is a node or host; empty: outside.
	host string
	port uint16
}

var sftpForm = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}@([a-z0-9-]+):(/[A-Za-z0-9._/-]*)$`)

func (l *loader) backup(f *sitefile.Backup) {
	l.oneOf("backup/drills", "backup.drills", f.Drills, sitefile.Words("Backup.Drills")...)
	for _, p := range f.Copies {
		path := yamltree.Join("backup/copies", p.Key)
		if !l.name(path, "copy", p.Key) {
			continue
		}
		l.oneOf(path+"/driver", "driver", p.Value.Driver, sitefile.Words("BackupCopy.Driver")...)
		l.secret(path+"/key", p.Value.Key)
		l.secret(path+"/credentials", p.Value.Credentials)
		if !l.pos.Has(path + "/to") {
			continue
		}
		switch p.Value.Driver {
		case "sftp":
			l.sftp(path+"/to", p.Key, p.Value.To)
		case "s3":
			l.s3(path+"/to", p.Key, p.Value.To)
		}
	}
}

func (l *loader) sftp(path, name, to string) {
	m := sftpForm.FindStringSubmatch(to)
	if m == nil {
		l.fail(path, "write it like backup@backup:/backups", "%q is no place for sftp", to)
		return
	}
	if l.hostRef(path, m[1]) {
		l.site.copies = append(l.site.copies, backupTarget{name: name, host: m[1], port: 22})
	}
}

func (l *loader) s3(path, name, to string) {
	endpoint, bucket, _ := strings.Cut(to, "/")
	host, port, ported := strings.Cut(endpoint, ":")
	target := backupTarget{name: name, port: 443}
	if ported {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			host = ""
		}
		target.port = uint16(n)
	}
	var server sitefile.NTPServer // the same form: a name or an address
	if server.UnmarshalText([]byte(host)) != nil || bucket == "" || strings.ContainsAny(bucket, " \"'") {
		l.fail(path, "write it like s3.example.net/bucket", "%q is no place for s3", to)
		return
	}
	if a, err := netip.ParseAddr(host); err == nil {
		l.reachable(path, a)
		l.outsideOrKnown(path, a)
		target.host = l.owner(a)
	} else if l.owns(host) {
		target.host = host
	}
	l.site.copies = append(l.site.copies, target)
}
