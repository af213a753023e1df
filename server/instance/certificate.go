package instance

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/server/operation"
)

// The certificate of destruction, for the customer and for who must prove that nothing was kept. Both languages say the same.
const certificateEnglish = `CERTIFICATE OF DESTRUCTION

Site: %[1]s
Instance: %[2]s (id %[3]s), Dolibarr %[4]s
Company: %[5]s
Names: %[6]s
Host: %[7]s
Created: %[8]s, by %[9]s
Suspended: %[10]s
Destroyed: %[11]s to %[12]s
Ordered by: %[13]s, operation %[14]s
Method: containers, network, volumes and files were removed from the host; the secrets, those of the database among
them, were erased from the server; the names were taken from the reverse proxy and from the name servers that infractl
manages. Afterwards the host was searched again, and nothing was found.
Scope: database, documents, added modules, configuration, secrets. infractl holds no backup, off-site copy or clone of
this instance.
Kept: this certificate, and the entries of the audit log, as evidence.
Inventory before: sha256 %[15]s
%[16]s
Removed:
%[17]s
Inventory after: sha256 %[18]s (empty)
Issued: %[19]s
`

//nolint:misspell // it is French
const certificateFrench = `CERTIFICAT DE DESTRUCTION

Site : %[1]s
Instance : %[2]s (identifiant %[3]s), Dolibarr %[4]s
Société : %[5]s
Noms : %[6]s
Hôte : %[7]s
Créée le : %[8]s, par %[9]s
Suspendue le : %[10]s
Détruite : du %[11]s au %[12]s
Sur ordre de : %[13]s, opération %[14]s
Méthode : conteneurs, réseau, volumes et fichiers ont été supprimés de l'hôte ; les secrets, dont ceux de la base de
données, ont été effacés du serveur ; les noms ont été retirés du mandataire inverse et des serveurs de noms qu'infractl
gère. L'hôte a ensuite été fouillé de nouveau : rien n'a été trouvé.
Périmètre : base de données, documents, modules ajoutés, configuration, secrets. infractl ne détient ni sauvegarde, ni
copie hors site, ni clone de cette instance.
Conservés : ce certificat et les entrées du journal d'audit, à titre de preuve.
Inventaire avant : sha256 %[15]s
%[16]s
Éléments supprimés :
%[17]s
Inventaire après : sha256 %[18]s (vide)
Délivré le : %[19]s
`

// certificate is the text of a certificate of destruction, in English and in French.
func (s *Instances) certificate(rec *record, d *destroyed, run *operation.Run, now time.Time) string {
	day := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	values := []any{s.cfg.Site, rec.Name, rec.ID, rec.Version, cmp.Or(rec.Company, "-"), strings.Join(d.Domains, ", "), rec.Node,
		day(rec.Created), rec.Operator, day(rec.Suspended), day(d.Begun), day(d.Ended), run.Operator(), run.ID(),
		hashOf(d.Found), bullets(d.Found), bullets(d.Removed), hashOf(nil), day(now)}
	return fmt.Sprintf(certificateEnglish, values...) + "\n" + fmt.Sprintf(certificateFrench, values...)
}

func bullets(items []string) string {
	if len(items) == 0 {
		return "  -"
	}
	return "  - " + strings.Join(items, "\n  - ")
}

// hashOf identifies an inventory.
func hashOf(parts []string) string {
	parts = slices.Clone(parts)
	slices.Sort(parts)
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return hex.EncodeToString(sum[:])
}
