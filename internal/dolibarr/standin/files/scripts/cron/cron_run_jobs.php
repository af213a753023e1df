#!/usr/bin/env php
<?php
// php cron_run_jobs.php KEY LOGIN
define('NOLOGIN', '1');
$path = __DIR__.'/';
require_once $path.'../../htdocs/master.inc.php';

$refused = (int) DOL_VERSION >= 22 ? 1 : 255;
if (empty($argv[1]) || empty($argv[2])) {
	print "Usage: cron_run_jobs.php securitykey userlogin\n";
	exit($refused);
}
print '***** cron_run_jobs.php ('.DOL_VERSION.') - userlogin='.$argv[2]." *****\n";
if (!isModEnabled('cron')) {
	print "Error: module Scheduled jobs (cron) not activated\n";
	exit($refused);
}
if ($argv[1] != getDolGlobalString('CRON_KEY')) {
	print "Error: securitykey is wrong\n";
	exit($refused);
}
$login = $argv[2];
if ($login === 'firstadmin') {
	$rows = $db->rows('SELECT login FROM '.MAIN_DB_PREFIX.'user WHERE admin = 1 AND statut = 1 ORDER BY entity, rowid LIMIT 1');
	$login = $rows ? $rows[0]->login : '';
}
if ($login === '' || $user->fetch('', $login) <= 0) {
	print 'User login: '.$login." does not exists\n";
	exit($refused);
}
$failed = 0;
foreach ($db->rows('SELECT rowid, label, command FROM '.MAIN_DB_PREFIX.'cronjob WHERE status = 1 AND datenextrun < NOW()') as $job) {
	$result = $job->command === 'fail' ? 1 : 0;
	$failed += $result;
	$db->query('UPDATE '.MAIN_DB_PREFIX."cronjob SET datelastrun = NOW(), datenextrun = NOW() + INTERVAL 1 DAY, lastresult = '".$result."' WHERE rowid = ".((int) $job->rowid));
	print 'cron_run_jobs.php cronjobid: '.$job->rowid.' label='.$job->label.' - '.($result ? 'KO' : 'OK')."\n";
}
exit($failed ? 1 : 0);
