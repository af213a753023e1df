<?php
// Answers /api/index.php/status. With the module off this is 200 and a sentence: whoever tests the code only is deceived.
define('NOLOGIN', '1');
chdir(__DIR__.'/..');
require __DIR__.'/../main.inc.php';
if (!isModEnabled('api')) {
	print 'Module Api must be enabled';
	exit;
}
header('Content-Type: application/json');
$key = isset($_SERVER['HTTP_DOLAPIKEY']) ? $_SERVER['HTTP_DOLAPIKEY'] : '';
$rows = $key === '' ? array() : $db->rows("SELECT login, api_key FROM ".MAIN_DB_PREFIX."user WHERE api_key IS NOT NULL AND api_key <> ''");
foreach ($rows as $row) {
	if (hash_equals(dolDecrypt($row->api_key), $key)) {
		print json_encode(array('success' => array('code' => 200, 'dolibarr_version' => DOL_VERSION, 'access_locked' => '0')));
		exit;
	}
}
http_response_code(401);
print json_encode(array('error' => array('code' => 401, 'message' => 'Unauthorized: Failed to login to API')));
