<?php
define('NOLOGIN', '1');
chdir(__DIR__.'/..');
require __DIR__.'/../main.inc.php';
print 'This is a notification about a network trouble.';
