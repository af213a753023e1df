<?php
// php upgrade2.php FROM TO: changes data, each change only when TO is its version: a jump leaves the others out, and ends with 0.
define('ALLOWED_IF_UPGRADE_UNLOCK_FOUND', 1);
include 'inc.php';
list(, $versionfrom, $versionto) = $argv + array_fill(0, 3, '');
print "<html><body><h1>Migration of data</h1>\n";
$db = step_database();
if (!$db->connected) {
	print 'Failed to connect to server';
	exit(255);
}
$conf->setValues($db);
$major = (int) $versionto;
if ($major > (int) $versionfrom) {
	dolibarr_set_const($db, 'STANDIN_DATA_'.$major, 'done', 'chaine', 0, 'data migration of '.$major, 0);
}
print "Migration finished<br>\n</body></html>";
