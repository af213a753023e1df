<?php
define('NOLOGIN', '1');
chdir(__DIR__.'/../..');
require __DIR__.'/../../main.inc.php';
if (!isModEnabled('cron')) {
	http_response_code((int) DOL_VERSION < 19 ? 200 : 403);
	print 'Module Scheduled jobs (cron) not activated';
}
