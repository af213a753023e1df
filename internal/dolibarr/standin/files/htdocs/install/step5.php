<?php
// php step5.php FROM TO LANG ACTION LOGIN PASS PASS MODE: the end of an installation (action set) or of an upgrade (none, or upgrade_X.Y.Z).
define('ALLOWED_IF_UPGRADE_UNLOCK_FOUND', 1);
include_once 'inc.php';
list(, $versionfrom, $versionto, $setuplang, $action, $login, $pass, $pass_verif, $lockmode) = $argv + array_fill(0, 9, '');
$targetversion = DOL_VERSION; // without an action it is the version of the code, whatever TO says
if (preg_match('/^upgrade_(.+)$/', $action, $found)) {
	$targetversion = $found[1];
}
if ($action === 'set' && ($pass !== $pass_verif || trim($pass) === '' || trim($login) === '')) {
	header('Location: step4.php?error=1');
	exit;
}
print "<html><body><h1>Setup end</h1>\n";
if ($versionfrom === '' && $versionto === '' && !is_writable($conffile)) {
	print 'The configuration file <b>htdocs/conf/conf.php</b> is not writable.';
	exit;
}
$db = step_database();
$success = 0;
$lastupgrade = '';
if (!$db->connected) {
	print 'Failed to connect<br>'; // and the exit code stays 0
} elseif ($action === 'set') {
	$conf->setValues($db);
	include_once DOL_DOCUMENT_ROOT.'/core/modules/modUser.class.php';
	$module = new modUser($db);
	$module->init();
	if (!$db->rows('SELECT rowid FROM '.MAIN_DB_PREFIX.'user')) {
		dolibarr_set_const($db, 'DATABASE_PWD_ENCRYPTED', '1', 'chaine', 0, '', 1);
		dolibarr_set_const($db, 'MAIN_SECURITY_SALT', date('YmdHis'), 'chaine', 0, '', 0);
		dolibarr_set_const($db, 'MAIN_SECURITY_HASH_ALGO', 'password_hash', 'chaine', 0, '', 0);
	}
	$success = $db->query('INSERT INTO '.MAIN_DB_PREFIX."user (entity, login, lastname, pass_crypted, admin, statut, datec) VALUES (0, '".$db->escape($login)
		."', 'SuperAdmin', '".$db->escape(dol_hash($pass))."', 1, 1, NOW())") || $db->errno() === 'DB_ERROR_1062';
	if (!$success) {
		print '<div class="error">Failed to create administrator: '.htmlspecialchars($db->lasterror()).'</div>';
	} else {
		dolibarr_set_const($db, 'MAIN_VERSION_FIRST_INSTALL', $targetversion, 'chaine', 0, '', 0);
		dolibarr_set_const($db, 'MAIN_VERSION_LAST_INSTALL', $targetversion, 'chaine', 0, '', 0);
		activateModule('modImport');
		$db->query('DELETE FROM '.MAIN_DB_PREFIX."const WHERE name = 'MAIN_NOT_INSTALLED'");
		dolibarr_set_const($db, 'MAIN_LANG_DEFAULT', $setuplang ?: 'auto', 'chaine', 0, '', 1);
		print 'Administrator login created<br>This installation is complete.<br>';
	}
} else {
	$conf->setValues($db);
	$lastupgrade = getDolGlobalString('MAIN_VERSION_LAST_UPGRADE');
	if ($lastupgrade === '' || version_compare($targetversion, $lastupgrade) > 0) { // never lowered
		dolibarr_set_const($db, 'MAIN_VERSION_LAST_UPGRADE', $targetversion, 'chaine', 0, 'Dolibarr version for last upgrade', 0);
		$lastupgrade = $targetversion;
	}
}

$finished = $lastupgrade === '' || $lastupgrade === DOL_VERSION;
if (($action === 'set' && $success) || ($action !== 'set' && $finished)) {
	if ($action !== 'set') {
		print 'Dolibarr application is upgraded successfully.<br>'; // printed with the database down, too
		@unlink(DOL_DATA_ROOT.'/upgrade.unlock');
	}
	if ($lockmode !== '' && (int) $lockmode > 0 && !file_exists(DOL_DATA_ROOT.'/install.lock')) {
		file_put_contents(DOL_DATA_ROOT.'/install.lock', 'This is a lock file to prevent use of install or upgrade pages (set with permission '.$lockmode.')');
		chmod(DOL_DATA_ROOT.'/install.lock', octdec($lockmode));
	}
} elseif ($action !== 'set') {
	print 'Last upgrade version: '.$lastupgrade.', version of the program: '.DOL_VERSION.'<br>';
}
print '</body></html>';
