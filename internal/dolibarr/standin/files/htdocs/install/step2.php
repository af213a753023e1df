<?php
// php step2.php set auto: makes tables, keys and data.
include 'inc.php';
$action = isset($argv[1]) ? $argv[1] : '';
print "<html><body><h1>Database objects</h1>\n";
if (!is_writable($conffile)) {
	print 'The configuration file <b>htdocs/conf/conf.php</b> is not writable.';
	exit;
}
$ok = 0;
if ($action === 'set') {
	$db = step_database();
	if ($db->connected) {
		$ok = 1;
		foreach (array('mysql/tables/llx_*.sql', 'mysql/tables/llx_*.key.sql', 'mysql/data/llx_*.sql') as $pattern) {
			foreach (glob($pattern) as $file) {
				if (strpos(basename($file), '-') !== false || ($pattern === 'mysql/tables/llx_*.sql' && substr($file, -8) === '.key.sql')) {
					continue;
				}
				if (run_sql($db, $file)) {
					$ok = 0;
				}
			}
		}
	} else {
		print 'Failed to connect to server';
	}
}
print '</body></html>';
if (!$ok && isset($argv[1])) {
	exit(1);
}
