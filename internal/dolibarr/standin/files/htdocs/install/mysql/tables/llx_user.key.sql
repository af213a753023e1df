ALTER TABLE llx_user ADD UNIQUE INDEX uk_user_login(login, entity);
