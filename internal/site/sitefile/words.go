package sitefile

// Words returns the words that a key may hold, by type and field as in "Node.Role"; nil for a key whose words are not fixed.
func Words(key string) []string {
	switch key {
	case "Node.Role":
		return []string{"router", "relay", "services", "supervision", "prod", "preprod"}
	case "Node.Platform", "OverlayNode.Platform":
		return []string{"linux", "vyos-1.3", "vyos-1.4", "vyos-1.5"}
	case "Proxy.Driver", "OverlayProxy.Driver":
		return []string{"npm", "caddy"}
	case "ProxyTLS.Provider":
		return []string{"letsencrypt", "internal"}
	case "ProxyDNS.Provider":
		return []string{"manual", "rfc2136"}
	case "ProxyHost.Scheme":
		return []string{"http", "https"}
	case "Backup.Drills", "OverlayBackup.Drills":
		return []string{"daily", "weekly", "monthly"}
	case "BackupCopy.Driver":
		return []string{"sftp", "s3"}
	case "DolibarrDefaults.Language":
		return []string{"fr", "en"}
	case "Patching.Scope":
		return []string{"security", "all"}
	case "Patching.Reboot":
		return []string{"never", "when-required", "always"}
	}
	return nil
}
