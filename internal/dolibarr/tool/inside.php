<?php
/*
 * The children: one of Dolibarr's scripts with arguments that never stood in a process list, or a task with Dolibarr loaded.
 */

/** What a child's answer begins with, among whatever Dolibarr prints. */
const INFRACTL_ANSWER = '@@infractl@@';

function infractl_step_script($task)
{
	return $task['name'] === 'cron' ? infractl_scripts().'/cron/cron_run_jobs.php' : infractl_htdocs().'/install/'.$task['name'].'.php';
}

/**
 * Returns the arguments of a script as its own command line would have them.
 */
function infractl_step_arguments($task)
{
	define('SYSLOG_FILE', '/dev/null'); // the installer's log holds every statement, and stands in /tmp for all to read
	define('SYSLOG_FILE_NO_ERROR', 1);
	switch ($task['name']) {
		case 'step1':
			return array('step1.php', 'set', 'auto', infractl_htdocs(), infractl_documents(), $task['url'], '', '', 'mysqli', $task['db_host'],
				$task['db_name'], $task['db_user'], infractl_secret('db'), $task['db_port'] === '' ? '3306' : $task['db_port'], 'llx_', '0', '0');
		case 'step2':
			return array('step2.php', 'set', 'auto');
		case 'step5':
			return array('step5.php', '', '', 'auto', 'set', $task['login'], infractl_secret('admin'), infractl_secret('admin'), '444');
		case 'cron':
			return array('cron_run_jobs.php', infractl_secret('cron-key'), 'firstadmin');
	}
	exit(1);
}

/**
 * Switches off what a script without a visitor has no use for, as Dolibarr's own scripts do.
 */
function infractl_inside_defines()
{
	foreach (array('NOTOKENRENEWAL', 'NOREQUIREMENU', 'NOREQUIREHTML', 'NOREQUIREAJAX', 'NOLOGIN', 'NOSESSION') as $name) {
		define($name, '1');
	}
}

/**
 * Runs a task with Dolibarr loaded, in a child: a fatal error in a module must not end us.
 */
function infractl_run_inside($task)
{
	list($code, $output) = infractl_child('_inside', $task);
	$at = strrpos($output, INFRACTL_ANSWER);
	$answer = $at === false ? null : json_decode(strtok(substr($output, $at + strlen(INFRACTL_ANSWER)), "\n"), true);
	if (!is_array($answer) || $code !== 0) {
		throw new InfractlError('Dolibarr broke off with code '.$code.': '.infractl_tail($output));
	}
	if (isset($answer['error'])) {
		throw new InfractlError($answer['error'], isset($answer['hint']) ? $answer['hint'] : '');
	}
}

/**
 * Does the task and prints its answer. The globals are Dolibarr's.
 */
function infractl_inside($task)
{
	global $db, $conf, $user, $langs;
	$langs->setDefaultLang('en_US');
	$langs->load('admin');
	$langs->load('errors');
	try {
		$login = $task['login'];
		if ($login === '') {
			$rows = $db->query('SELECT login FROM '.MAIN_DB_PREFIX.'user WHERE admin = 1 AND statut = 1 ORDER BY entity, rowid LIMIT 1');
			$row = $rows ? $db->fetch_object($rows) : null;
			$login = $row ? $row->login : '';
		}
		if ($login === '' || $user->fetch('', $login, '', 1) <= 0) {
			throw new InfractlError('there is no active administrator '.$login);
		}
		$user->getrights();
		infractl_inside_company($task['company']);
		foreach ($task['disable'] as $class) {
			$problem = unActivateModule($class);
			if ($problem) {
				throw new InfractlError('the module '.substr($class, 3).' cannot be disabled: '.strip_tags($problem));
			}
		}
		foreach ($task['enable'] as $class) {
			$result = activateModule($class);
			if (!empty($result['errors'])) {
				throw new InfractlError('the module '.substr($class, 3).' cannot be enabled: '.strip_tags(implode('; ', (array) $result['errors'])));
			}
		}
		if ($task['cron_key']) {
			infractl_inside_set('CRON_KEY', infractl_secret('cron-key'), 0); // the module makes an empty one of entity 0
		}
		$answer = array('ok' => true);
	} catch (InfractlError $e) {
		$answer = array('error' => infractl_redact($e->getMessage()), 'hint' => $e->hint);
	}
	echo "\n".INFRACTL_ANSWER.json_encode($answer, JSON_PARTIAL_OUTPUT_ON_ERROR)."\n";
	exit(0);
}

function infractl_inside_set($name, $value, $entity)
{
	global $db;
	if (dolibarr_set_const($db, $name, $value, 'chaine', 0, '', $entity) < 0) {
		throw new InfractlError('the constant '.$name.' cannot be set: '.$db->lasterror());
	}
}

/**
 * Writes name, country, language and time zone. The country comes before any module: some want to know it.
 */
function infractl_inside_company($company)
{
	global $db, $conf, $mysoc;
	if (!empty($company['country'])) {
		$rows = $db->query('SELECT rowid, label FROM '.MAIN_DB_PREFIX."c_country WHERE code = '".$db->escape($company['country'])."'");
		$row = $rows ? $db->fetch_object($rows) : null;
		if (!$row) {
			throw new InfractlError('unknown country '.$company['country'], 'two letters, such as FR');
		}
		infractl_inside_set('MAIN_INFO_SOCIETE_COUNTRY', $row->rowid.':'.$company['country'].':'.$row->label, $conf->entity);
	}
	$names = array('name' => 'MAIN_INFO_SOCIETE_NOM', 'language' => 'MAIN_LANG_DEFAULT', 'timezone' => 'MAIN_SERVER_TZ');
	foreach ($names as $key => $name) {
		if (!empty($company[$key])) {
			infractl_inside_set($name, $company[$key], $conf->entity);
		}
	}
	$mysoc->setMysoc($conf);
}
