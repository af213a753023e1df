<?php
require 'main.inc.php';
print "<!doctype html>\n<html><head><title>Home - ".htmlspecialchars(getDolGlobalString('MAIN_INFO_SOCIETE_NOM')).' '.DOL_VERSION.'</title></head><body>'
	.'Welcome '.htmlspecialchars($user->login).' <a href="/user/logout.php">Logout</a></body></html>';
