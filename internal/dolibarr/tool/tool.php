<?php
/*
 * The only hand that infractl has inside an instance: php tool.php VERB, with a JSON object on stdin.
 *
 * Verbs: install, configure, password, modules, status, cron. Output is one JSON object a line: {"step","seconds"} while it works,
 * and {"ok":...} at the end; the exit code is 1 when ok is false. Secrets are read from files and stand in no argument, no variable
 * of the environment and no output.
 *
 * Dolibarr's own scripts expect global scope, take passwords as arguments and end the process. So each of them runs in a process of
 * its own, which fills $argv itself: the verbs _step and _inside, which only this file calls.
 */

if (PHP_SAPI !== 'cli') {
	http_response_code(404);
	exit(1);
}

require __DIR__.'/base.php';
require __DIR__.'/conf.php';
require __DIR__.'/install.php';
require __DIR__.'/verbs.php';
require __DIR__.'/inside.php';

/**
 * Runs a public verb, prints its answer and ends the process.
 */
function infractl_main($verb)
{
	$verbs = array(
		'install' => 'infractl_install', 'configure' => 'infractl_configure', 'password' => 'infractl_password',
		'modules' => 'infractl_modules', 'status' => 'infractl_status', 'cron' => 'infractl_cron',
	);
	try {
		if (!isset($verbs[$verb])) {
			throw new InfractlError('unknown verb '.$verb, 'one of '.implode(', ', array_keys($verbs)));
		}
		$answer = call_user_func($verbs[$verb], infractl_input());
		infractl_line(array('ok' => true) + $answer);
		exit(0);
	} catch (InfractlError $e) {
		infractl_line(array('ok' => false, 'error' => infractl_redact($e->getMessage()), 'hint' => $e->hint) + $e->more);
	} catch (Throwable $e) {
		infractl_line(array('ok' => false, 'error' => infractl_redact($e->getMessage()), 'hint' => '', 'at' => basename($e->getFile()).':'.$e->getLine()));
	}
	exit(1);
}

$infractl_verb = isset($argv[1]) ? $argv[1] : '';
if ($infractl_verb !== '_step' && $infractl_verb !== '_inside') {
	infractl_main($infractl_verb);
}

// A child of this file. What follows stands in the global scope, where Dolibarr's scripts look for their variables.
$infractl_task = json_decode(base64_decode(isset($argv[2]) ? $argv[2] : ''), true);
if ($infractl_verb === '_step') {
	$infractl_script = infractl_step_script($infractl_task);
	$argv = infractl_step_arguments($infractl_task);
	$argc = count($argv);
	$_SERVER['argv'] = $argv;
	$_SERVER['argc'] = $argc;
	$_SERVER['PHP_SELF'] = $_SERVER['SCRIPT_NAME'] = $_SERVER['SCRIPT_FILENAME'] = $argv[0];
	chdir(dirname($infractl_script));
	unset($infractl_verb, $infractl_task);
	include $infractl_script;
} else {
	infractl_inside_defines();
	chdir(infractl_htdocs());
	require infractl_htdocs().'/master.inc.php';
	require_once infractl_htdocs().'/core/lib/admin.lib.php';
	infractl_inside($infractl_task);
}
