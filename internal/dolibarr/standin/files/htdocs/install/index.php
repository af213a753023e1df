<?php
require 'inc.php';
print 'Dolibarr install or upgrade: choose a language.';
