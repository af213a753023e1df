<?php
class Societe
{
	public $name;
	public $country_code;

	public function __construct($db)
	{
	}

	public function setMysoc($conf)
	{
		$this->name = getDolGlobalString('MAIN_INFO_SOCIETE_NOM');
		$parts = explode(':', getDolGlobalString('MAIN_INFO_SOCIETE_COUNTRY'));
		$this->country_code = isset($parts[1]) ? $parts[1] : '';
	}
}
