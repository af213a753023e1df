<?php
class Translate
{
	private $lang = 'auto';

	public function __construct($dir, $conf)
	{
	}

	public function setDefaultLang($lang)
	{
		$this->lang = $lang;
	}

	public function getDefaultLang()
	{
		return $this->lang;
	}

	public function load($domain)
	{
		return 1;
	}

	public function loadLangs($domains)
	{
		return 1;
	}

	public function trans($key)
	{
		global $conf;
		$french = $this->lang === 'fr_FR' || (isset($conf->global->MAIN_LANG_DEFAULT) && $conf->global->MAIN_LANG_DEFAULT === 'fr_FR');
		$words = array('Login' => 'Identifiant');
		return $french && isset($words[$key]) ? $words[$key] : $key;
	}

	public function transnoentities($key)
	{
		return $this->trans($key);
	}
}
