<?php
// php upgrade.php FROM TO: runs every file whose name begins with FROM- or ends with -TO.sql, and nothing in between.
define('ALLOWED_IF_UPGRADE_UNLOCK_FOUND', 1);
include 'inc.php';
list(, $versionfrom, $versionto) = $argv + array_fill(0, 3, '');
$from = preg_replace('/[^.]+$/', '0', $versionfrom);
$to = preg_replace('/[^.]+$/', '0', $versionto);
print "<html><body><h1>Migration</h1>\n";
$db = step_database();
if (!$db->connected) {
	print 'Failed to connect to server';
	exit(1);
}
$ok = 0;
$files = array();
foreach (glob('mysql/migration/*.sql') as $file) {
	$name = basename($file);
	if ($from !== '' && $to !== '' && (strpos($name, $from.'-') === 0 || substr($name, -strlen('-'.$to.'.sql')) === '-'.$to.'.sql')) {
		$files[] = $file;
	}
}
natsort($files);
if ($from === $to && $from !== '') {
	$ok = 1; // the same series: only what every version runs
}
foreach ($files as $file) {
	print 'Choose migration script '.basename($file)."<br>\n";
	$ok = run_sql($db, $file) ? 0 : 1; // the last file alone decides
	print $ok ? "Script processing OK<br>\n" : "Script processing with errors<br>\n";
}
if (!$files && !$ok) {
	print 'No migration file found for versions '.htmlspecialchars($versionfrom.' and '.$versionto);
}
foreach (glob('../custom/*/sql/dolibarr_allversions.sql') ?: array() as $file) {
	run_sql($db, $file); // its failure does not count
}
print '</body></html>';
if (!$ok) {
	exit(1);
}
