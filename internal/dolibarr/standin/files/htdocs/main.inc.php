<?php
// Every page begins here: the database, the version check, the session, the login form.
require_once 'master.inc.php';

if (getDolGlobalString('MAIN_NOT_INSTALLED')) {
	header('Location: '.DOL_URL_ROOT.'/install/index.php');
	exit;
}
// Only code that is newer than the base is noticed. Older code shows its page as if nothing were wrong.
$versiontocompare = getDolGlobalString('MAIN_VERSION_LAST_UPGRADE') ? getDolGlobalString('MAIN_VERSION_LAST_UPGRADE') : getDolGlobalString('MAIN_VERSION_LAST_INSTALL');
if ($versiontocompare !== '' && $versiontocompare !== DOL_VERSION && version_compare(DOL_VERSION, $versiontocompare) > 0) {
	$samemajor = (int) DOL_VERSION === (int) $versiontocompare && explode('.', DOL_VERSION)[1] === explode('.', $versiontocompare)[1];
	if (!$samemajor || !getDolGlobalString('MAIN_NO_UPGRADE_REDIRECT_ON_LEVEL_3_CHANGE')) {
		header('Location: '.DOL_URL_ROOT.'/install/index.php');
		exit;
	}
}

session_name('DOLSESSID_'.substr(sha1(DOL_DOCUMENT_ROOT.$conf->file->instance_unique_id), 0, 16));
session_set_cookie_params(array('path' => '/', 'httponly' => true, 'secure' => isHTTPS(), 'samesite' => 'Lax'));
session_start();

if (isset($_POST['actionlogin'], $_POST['username'], $_POST['password']) && is_string($_POST['username']) && is_string($_POST['password'])) {
	$token = isset($_POST['token']) && is_string($_POST['token']) ? $_POST['token'] : '';
	if (!isset($_SESSION['newtoken']) || !hash_equals($_SESSION['newtoken'], $token)) {
		http_response_code(403);
		print 'Access to this page this way (POST method) is refused by CSRF protection: the token is missing or wrong.';
		exit;
	}
	if ((int) DOL_VERSION < 17 && empty($_SERVER['HTTP_REFERER'])) {
		http_response_code(403);
		print 'Access refused by CSRF protection: no Referer.';
		exit;
	}
	if (checkLoginPassEntity($db, $_POST['username'], $_POST['password'])) {
		session_regenerate_id(true);
		$_SESSION['dol_login'] = $_POST['username'];
		$_SESSION['dol_logindate'] = gmdate('Y-m-d H:i:s');
	}
}
if (!empty($_SESSION['dol_login'])) {
	$found = $user->fetch('', $_SESSION['dol_login']) > 0 && $user->statut == 1;
	if (!$found || ($user->flagdelsessionsbefore && $user->flagdelsessionsbefore > $_SESSION['dol_logindate'])) {
		session_destroy();
		$_SESSION = array();
		session_start();
	}
}
if (empty($_SESSION['dol_login']) && !defined('NOLOGIN')) {
	$_SESSION['newtoken'] = bin2hex(random_bytes(16));
	$title = getDolGlobalString('MAIN_APPLICATION_TITLE') ? getDolGlobalString('MAIN_APPLICATION_TITLE') : $langs->trans('Login');
	print "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>".htmlspecialchars($title).' @ '.DOL_VERSION.'</title></head><body>'
		.'<form id="login" method="post" action="/index.php?mainmenu=home"><input type="hidden" name="token" value="'.$_SESSION['newtoken'].'">'
		.'<input type="hidden" name="actionlogin" value="login"><input type="hidden" name="loginfunction" value="loginfunction">'
		.'<input name="username"><input type="password" name="password"><input type="submit" value="Login"></form></body></html>';
	exit;
}
