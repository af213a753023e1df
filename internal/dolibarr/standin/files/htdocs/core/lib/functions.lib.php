<?php
function getDolGlobalString($key, $default = '')
{
	global $conf;
	return isset($conf->global->$key) ? (string) $conf->global->$key : $default;
}

function isModEnabled($module)
{
	global $conf;
	return !empty($conf->modules[$module]);
}

function isHTTPS()
{
	return (isset($_SERVER['HTTPS']) && $_SERVER['HTTPS'] == 'on') || (isset($_SERVER['HTTP_X_FORWARDED_PROTO']) && $_SERVER['HTTP_X_FORWARDED_PROTO'] == 'https');
}

// With the database down, 19 and newer answer 202, older ones 500.
function dol_print_error($db = null, $error = '')
{
	if (!headers_sent()) {
		http_response_code((int) DOL_VERSION >= 19 ? 202 : 500);
	}
	print 'Dolibarr has detected a technical error.<br>You use a Dolibarr of version '.DOL_VERSION.'<br>'.htmlspecialchars($error);
}
