<?php
// Stored secrets are encrypted with the unique id, from 17 on; dolcrypt_key comes first where it is set.
function dolEncrypt($chain, $key = '')
{
	global $conf;
	if ($chain === '' || $chain === null || strpos($chain, 'dolcrypt:') === 0 || (int) DOL_VERSION < 17) {
		return (string) $chain;
	}
	$key = $key !== '' ? $key : dol_stored_key($conf);
	if ($key === '') {
		return $chain;
	}
	$seed = bin2hex(random_bytes(8));
	return 'dolcrypt:AES-256-CTR:'.$seed.':'.openssl_encrypt($chain, 'AES-256-CTR', $key, 0, $seed);
}

function dolDecrypt($chain, $key = '')
{
	global $conf;
	if (!preg_match('/^dolcrypt:([^:]+):([^:]+):(.+)$/', (string) $chain, $found)) {
		return (string) $chain;
	}
	return (string) openssl_decrypt($found[3], $found[1], $key !== '' ? $key : dol_stored_key($conf), 0, $found[2]);
}

function dol_stored_key($conf)
{
	return !empty($conf->file->dolcrypt_key) ? $conf->file->dolcrypt_key : (isset($conf->file->instance_unique_id) ? $conf->file->instance_unique_id : '');
}

// Without MAIN_SECURITY_HASH_ALGO an old salted digest is made.
function dol_hash($chain)
{
	if (getDolGlobalString('MAIN_SECURITY_HASH_ALGO') === 'password_hash') {
		return password_hash($chain, PASSWORD_DEFAULT);
	}
	return sha1(md5(getDolGlobalString('MAIN_SECURITY_SALT').$chain));
}

// Plain MD5 of raw loaded bases is still accepted.
function checkLoginPassEntity($db, $login, $password)
{
	$rows = $db->rows('SELECT pass_crypted FROM '.MAIN_DB_PREFIX."user WHERE login = '".$db->escape($login)."' AND statut = 1");
	if (count($rows) !== 1) {
		return false;
	}
	$stored = (string) $rows[0]->pass_crypted;
	return password_verify($password, $stored) || hash_equals($stored, md5($password))
		|| hash_equals($stored, sha1(md5(getDolGlobalString('MAIN_SECURITY_SALT').$password)));
}
