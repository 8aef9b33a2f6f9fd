//! Headers and secrets in every spelling of programs, shells and file formats.

use proptest::prelude::{Strategy, prop, prop_assert, proptest};

use super::{ArgsMode, EVERY_MODE, TOKEN, masked, redacted};
use crate::secrets::{mask_args, mask_path, mask_text};

/// The placeholder for the secret in the tables below. `|` separates arguments.
const SECRET: &str = "s3cr3tV4lue";

fn args(line: &str, name: &str, secret: &str) -> Vec<String> {
    line.split('|')
        .map(|arg| arg.replace('¦', "|").replace("NAME", name).replace('§', secret))
        .collect()
}

/// The modes that show the secret, with their output.
fn leaks(line: &str, name: &str, secret: &str, modes: &[ArgsMode]) -> Vec<String> {
    let args = args(line, name, secret);
    let written = modes
        .iter()
        .map(|mode| (mode, mask_args(args.clone(), *mode).join("|")));
    written
        .filter(|(_, text)| text.contains(secret))
        .map(|(mode, text)| format!("{mode:?}: {args:?} became {text}"))
        .collect()
}

/// `NAME` stands for the name of any header.
const HEADERS: &[&str] = &[
    // As separate arguments.
    "curl|-H|NAME: §|u",
    "curl|-H|NAME:|§|u",
    "curl|-H|NAME|:|§|u",
    "curl|-H|NAME||:||§|u",
    "curl|-H|NAME|||§",
    "curl|-H|NAME|=|§",
    "curl|-H|\"NAME\"|:|\"§\"",
    "curl|-HNAME:§",
    "curl|--header=NAME: §",
    "curl|-H|NAME :§",
    "http|u|NAME:§",
    "http|u|NAME=§",
    "app|--NAME|§",
    "env|NAME=§|app",
    "env|HTTP_NAME=§|app",
    // Programs.
    "python3|-c|get(headers={'NAME': '§'})",
    "python3|-c|get(headers={'NAME' : \"§\"})",
    "python3|-c|get(headers={'NAME': b'§'})",
    "python3|-c|get(headers={'NAME': f'§'})",
    "python3|-c|get(headers={'NAME': '''§'''})",
    "python3|-c|get(headers={'NAME': '' + '§'})",
    "python3|-c|get(headers={'NAME': \"\"+\"§\"})",
    "python3|-c|get(headers={'NAME': '' + \"§\"})",
    "python3|-c|get(headers={'NAME': a + '§'})",
    "python3|-c|get(headers={'NAME': a or '§'})",
    "python3|-c|get(headers={'NAME': 'a' if b else '§'})",
    "python3|-c|get(headers={'NAME': '{}'.format('§')})",
    "python3|-c|get(headers={'NAME': '%s' % '§'})",
    "python3|-c|get(headers={'NAME': '%s %s' % ('a', '§')})",
    "python3|-c|get(headers={'NAME': ''.join(['a', '§'])})",
    "python3|-c|get(headers={'NAME': str('§')})",
    "python3|-c|get(headers={'NAME': f(a, '§')})",
    "python3|-c|get(headers={'NAME':\n '§'})",
    "python3|-c|get(headers={'NAME': 'a' +\n '§'})",
    "python3|-c|get(headers={'NAME': 'a'\n  '§'})",
    "python3|-c|get(headers={'NAME': 'a' '§'})",
    "python3|-c|get(headers=[('NAME', '§')])",
    "python3|-c|get(headers=[['NAME', '§']])",
    "python3|-c|h=dict(NAME='§')",
    "python3|-c|h={};h['NAME']='§';get(h)",
    "python3|-c|h[\"NAME\"] = \"§\"",
    "python3|-c|h[b'NAME'] = b'§'",
    "python3|-c|h['NAME'] += '§'",
    "python3|-c|h.update({'NAME': '§'})",
    "python3|-c|r.add_header('NAME', '§')",
    "python3|-c|r.add_header('NAME', 'a' + '§')",
    "python3|-c|r.add_header('NAME','%s' % x('§'))",
    "python3|-c|s.sendall(b'GET / HTTP/1.1\\r\\nNAME: §\\r\\nHost: x\\r\\n\\r\\n')",
    "python3|-c|s.sendall(b'NAME: ' + b'§' + b'\\r\\n')",
    "python3|-c|s.sendall('NAME: %s' % '§')",
    "python3|-c|s.sendall('NAME: {}\\r\\n'.format('§'))",
    "python3|-c|s.sendall('NAME: {0}'.format('§'))",
    "node|-e|fetch(u,{headers:{'NAME':'§'}})",
    "node|-e|fetch(u,{headers:{'NAME':`§`}})",
    "node|-e|fetch(u,{headers:{'NAME':`${a}§`}})",
    "node|-e|fetch(u,{headers:{'NAME':a?'b':'§'}})",
    "node|-e|fetch(u,{headers:{'NAME':a¦¦'§'}})",
    "node|-e|h.set('NAME', '§')",
    "node|-e|h.set(`NAME`, `§`)",
    "node|-e|h['NAME']='a'.concat('§')",
    "node|-e|h.NAME='§'",
    "node|-e|new Headers([['NAME','§']])",
    "ruby|-e|get('NAME' => '§')",
    "ruby|-e|r['NAME'] = \"#{a}§\"",
    "perl|-e|$r->header('NAME' => 'a' . '§')",
    "perl|-e|$h{'NAME'} = 'a' . '§'",
    "php|-r|$h = ['NAME: ' . '§'];",
    "php|-r|curl_setopt($c, H, array(\"NAME: \" . f('§')));",
    "lua|-e|h['NAME'] = 'a' .. '§'",
    "go|run|req.Header.Set(\"NAME\", fmt.Sprintf(\"%s\", \"§\"))",
    // Shells.
    "sh|-c|curl -H 'NAME: §' u",
    "sh|-c|curl -H \"NAME: §\" u",
    "sh|-c|curl -H NAME:\\ § u",
    "sh|-c|curl -H NAME:§ u",
    "sh|-c|curl -H 'NAME: '\"§\" u",
    "sh|-c|curl -H 'NAME: '§ u",
    "sh|-c|curl -H 'NAME: ''§' u",
    "sh|-c|curl -H NAME:''\\ § u",
    "sh|-c|curl -H NAME:\" \"§ u",
    "sh|-c|curl -H 'NAME':§ u",
    "sh|-c|curl -H $'NAME: §' u",
    "sh|-c|curl -H $'NAME\\x3a §' u",
    "sh|-c|curl -H $'NAME\\072 §' u",
    "sh|-c|curl \\\n -H NAME:\\\n § u",
    "sh|-c|bash -c \"curl -H \\\"NAME: §\\\" u\"",
    "sh|-c|bash -c \"curl -H 'NAME: §' u\"",
    "sh|-c|bash -c 'sh -c \"curl -H \\\"NAME: §\\\" u\"'",
    "sh|-c|printf 'NAME: %s' §",
    "sh|-c|printf \"NAME: %s\\r\\n\" \"§\" ¦ nc h 80",
    "printf|NAME: %s\\n|§",
    "sh|-c|echo NAME: §",
    "sh|-c|h=NAME:§; curl -H $h",
    "sh|-c|wget --header=\"NAME: §\" u",
    "sh|-c|NAME=§ app",
    "sh|-c|export NAME=\"§\"",
    // Formats.
    "app|{\"NAME\":\"§\"}",
    "app|{\"NAME\": [\"§\"]}",
    "app|{\"NAME\": [\"a\", \"§\"]}",
    "app|{\"h\":{\"NAME\":{\"v\":\"§\"}}}",
    "app|{\\\"NAME\\\":\\\"§\\\"}",
    "app|\"{\\\\\\\"NAME\\\\\\\":\\\\\\\"§\\\\\\\"}\"",
    "app|{\"name\":\"NAME\",\"value\":\"§\"}",
    "app|{\"name\": \"NAME\", \"value\": \"§\"}",
    "app|{\"value\":\"§\",\"name\":\"NAME\"}",
    "app|{\"value\":\"§\",\"comment\":\"\",\"name\":\"NAME\"}",
    "app|{\"name\":\"NAME\",\"comment\":\"a\",\"value\":\"§\"}",
    "app|[{\"name\":\"Host\",\"value\":\"h\"},{\"name\":\"NAME\",\"value\":\"§\"}]",
    "app|{\"Name\":\"NAME\",\"Value\":\"§\"}",
    "app|{'name': 'NAME', 'value': '§'}",
    "app|{name: NAME, value: §}",
    "app|name=NAME,value=§",
    "app|name: NAME\nvalue: §",
    "app|- name: NAME\n  value: \"§\"",
    "app|NAME: §\nHost: x",
    "app|NAME:\n  §",
    "app|NAME: >-\n  §",
    "app|\"NAME\": \"§\"",
    "app|<NAME>§</NAME>",
    "app|<NAME a=\"b\">§</NAME>",
    "app|<NAME><![CDATA[§]]></NAME>",
    "app|<header name=\"NAME\" value=\"§\"/>",
    "app|<header value=\"§\" name=\"NAME\"/>",
    "app|<header><name>NAME</name><value>§</value></header>",
    "app|&lt;header name=&quot;NAME&quot; value=&quot;§&quot;/&gt;",
    "app|NAME&#58; §",
    "app|{\\u0022NAME\\u0022:\\u0022§\\u0022}",
    "app|NAME\\u003d§",
    "app|NAME\\u{3a} §",
    "app|http://h/?NAME=§&a=b",
    "app|http://h/?h=NAME%3A%20§&a=b",
    "app|http://h/?h=NAME%253A%2520§&a=b",
    "app|http://h/?h=NAME%25253A%252520§",
    "app|http://h/?j=%7B%22NAME%22%3A%22§%22%7D&a=b",
    "app|http://h/?j=%257B%2522NAME%2522%253A%2522§%2522%257D",
    "nginx|-g|proxy_set_header NAME §;",
    "nginx|-g|proxy_set_header NAME \"§\";",
    "nginx|-g|proxy_set_header NAME 'a §';",
    "haproxy|http-request set-header NAME §",
    "apache|RequestHeader set NAME \"§\"",
    "nginx: NAME: §",
    "worker [NAME: §]",
    "app|a=b;NAME=§;c=d",
];

/// Values that begin with a scheme.
const SCHEMES: &[&str] = &[
    "curl|-H|Authorization: Bearer §",
    "curl|-H|Authorization:|Splunk|§|u",
    "curl|-H|Authorization|:|Splunk|§|u",
    "curl|-H|Authorization|Splunk|§",
    "curl|-H|Authorization: Splunk|§|u",
    "curl|-H|Authorization:|Bearer|-§|u",
    "curl|-H|Authorization:|Digest|username=\"bob\",|realm=\"x\",|response=\"§\"|u",
    "curl|-H|aUTHORIZATION:|ApiKey|§",
    "curl|-H|Proxy-Authorization:|Custom|§",
    "curl|-H|Proxy-Authorization: NTLM|§",
    "curl|-H|X-Authorization: GoogleLogin auth=§",
    "curl|--oauth2-bearer|§|u",
    "curl|--oauth2-bearer=§|u",
    "curl|--oauth2-bearer|--§|u",
    "sh|-c|curl --oauth2-bearer § u",
    "python3|-c|h={'Authorization': 'Bearer ' + '§'}",
    "python3|-c|h={'Authorization': 'Basic {}'.format('§')}",
    "python3|-c|h={'Authorization': 'Basic %s' % '§'}",
    "python3|-c|h={'Authorization': ' '.join(('Basic', '§'))}",
    "python3|-c|h={'Authorization': 'Basic ' + b64(b'me:§').decode()}",
    "python3|-c|h={'Authorization': ('Basic', '§')}",
    "python3|-c|h={'Authorization': f'Bearer {a}§'}",
    "python3|-c|h['Authorization'] = 'Be' + 'arer ' + 'SEC' + 'x' + '§'",
    "python3|-c|h=('Authorization', 'Bearer', '§')",
    "python3|-c|h=['Authorization', 'Splunk', '§']",
    "python3|-c|h[\"Authorization\"] = \"§\"",
    "python3|-c|h['Autho' + 'rization'] = 'Bearer §'",
    "node|-e|h={Authorization:'Bearer '+'§'}",
    "node|-e|h={authorization:`Bearer ${'§'}`}",
    "node|-e|x.setRequestHeader('Authorization','Basic '+btoa('me:§'))",
    "go|x|h.Set(\"Authorization\", fmt.Sprintf(\"Bearer %s\", \"§\"))",
    "java|x|h(\"Authorization\", String.format(\"Bearer %s\", \"§\"))",
    "sh|-c|curl -H Authorization:\\ Digest\\ username=\\\"bob\\\",\\ response=\\\"§\\\" u",
    "sh|-c|curl -H \"Authorization: Digest username=\\\"bob\\\", response=\\\"§\\\"\" u",
    "sh|-c|curl -H 'Authorization: Digest username=\"bob\", response=\"§\"' u",
    "sh|-c|curl -H 'Authorization: Digest username='\"bob\"', response='\"§\" u",
    "sh|-c|curl -H Authorization:' Digest 'username=bob,\" response=§\" u",
    "sh|-c|curl -H Authorization:\\ Bearer\\ § u",
    "sh|-c|curl -H \"Authorization: \"Bearer\\ § u",
    "sh|-c|curl -H \"Authorization:\"\" Splunk \"§ u",
    "sh|-c|printf 'Authorization: Bearer %s' §",
    "sh|-c|printf 'Authorization: %s %s' Bearer § ¦ nc h 80",
    "sh|-c|curl -H @- u <<E\nAuthorization: Bearer §\nE",
    "sh|-c|echo Authorization: Splunk §",
    "sh|-c|curl -H \"Autho\"\"rization: §\" u",
    "sh|-c|curl -H 'Autho'\"rization: §\" u",
    "sh|-c|curl -H \"Authorization\"': Splunk §' u",
    "sh|-c|curl -H Authorization\\\n: Splunk\\ § u",
    "curl|-H|Authorization: Digest username=\"bob\", response=\"§\"",
    "curl|-H|Authorization: AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host;range;x-amz-date, Signature=§",
    "app: Authorization: AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host;range, Signature=§",
    "nginx|-g|proxy_set_header Authorization Basic\\ §;",
    "nginx|-g|proxy_set_header Authorization \"Basic §\";",
    "nginx|-g|location / { proxy_set_header authorization 'Splunk §'; }",
    "nginx|-g|proxy_set_header authorization Splunk\\ §;",
    "nginx|-g|fastcgi_param HTTP_AUTHORIZATION Basic\\ §;",
    "haproxy|http-request set-header Authorization Basic\\ § if x",
    "apache|RequestHeader set Authorization \"Basic §\"",
    "app|http://h/?Authorization=Basic%20§&a=b",
    "app|http://h/?Authorization=Basic+§&a=b",
    "app|http://h/?h=Authorization%3A+Basic%20§",
    "app|%41uthorization%3A%20Splunk%20§",
    "app|{\"name\":\"Authorization\",\"value\":\"Bearer §\"}",
    "app|{\"value\":\"Splunk §\",\"name\":\"Authorization\"}",
    "app|{\"Authorization\":\"Digest username=\\\"bob\\\", response=\\\"§\\\"\"}",
    "app|Authorization: Bearer\n §",
];

#[test]
fn headers_are_masked_in_every_mode_and_spelling() {
    let mut shown = Vec::new();
    for name in [
        "X-aws-ec2-metadata-token",
        "x-aws-ec2-metadata-token",
        "X_AWS_EC2_METADATA_TOKEN",
        "Authorization",
        "AUTHORIZATION",
        "Proxy-Authorization",
    ] {
        for line in HEADERS {
            shown.extend(leaks(line, name, SECRET, &EVERY_MODE[..2]));
            shown.extend(leaks(line, name, TOKEN, &EVERY_MODE));
        }
    }
    for line in SCHEMES {
        shown.extend(leaks(line, "", SECRET, &EVERY_MODE));
    }
    assert!(shown.is_empty(), "{shown:#?}");
}

/// `NAME` stands for the name of any secret.
const SECRETS: &[&str] = &[
    "app|--NAME|§",
    "app|--NAME|--§",
    "app|--NAME=§",
    "app|--NAME=§ and more",
    "app|-NAME|§",
    "env|NAME=§|app",
    "env|NAME=/§|app",
    "app|NAME|=|§",
    "aws|configure|set|NAME|§",
    "aws|configure|set|NAME||§",
    "sh|-c|aws configure set NAME §",
    "sh|-c|aws configure set NAME '§' --profile a",
    "ssh|h|aws configure set NAME §",
    "git|config|--add|NAME|§",
    "app|{\"NAME\":\"§\"}",
    "app|{\"NAME\" : \"§ two\"}",
    "app|{'NAME': '§'}",
    "app|{\"name\":\"NAME\",\"value\":\"§\"}",
    "app|{\"value\":\"§\",\"name\":\"NAME\"}",
    "aws|ecs|name=NAME,value=§",
    "python3|-c|c[\"NAME\"] = \"§\"",
    "python3|-c|c['NAME']='§'",
    "python3|-c|connect(NAME='§')",
    "python3|-c|connect(NAME = \"§\")",
    "python3|-c|NAME = '' + '§'",
    "sh|-c|NAME=§ app",
    "sh|-c|NAME='§ two' app",
    "sh|-c|NAME=\"a §\" app",
    "sh|-c|export NAME=§; app",
    "app|Server=h;NAME=§;Database=d",
    "app|Server=h;NAME=§",
    "app|Server=h; NAME = §;",
    "app|host=h user=me NAME=§ dbname=d",
    "app|host=h NAME='§' dbname=d",
    "app|http://h/?NAME=§&a=b",
    "app|http://h/?x=NAME%3D§&a=b",
    "app|http://h/?x=NAME%253D§",
    "app|NAME\\u003d§",
    "app|<NAME>§</NAME>",
    "app|<c><NAME type=\"x\">§</NAME></c>",
    "app|<add key=\"NAME\" value=\"§\"/>",
    "app|NAME: §",
    "app|NAME: \"§\"",
    "java|-Ddb.NAME=§|Main",
    "java|-DNAME=§|Main",
];

/// Used as they are, without `NAME`.
const TOOLS: &[&str] = &[
    "aws|configure|set|aws_secret_access_key|§|--profile|p",
    "mysqladmin|-u|root|password|§",
    "redis-cli|config|set|requirepass|§",
    "pulumi|config|set|token|§",
    "curl|-u|me:§|u",
    "curl|-ume:§|u",
    "curl|-su|me:§|u",
    "curl|-sume:§|u",
    "curl|-sSfLume:§|u",
    "curl|-sSfLu|me:§|u",
    "curl|--user|me:§",
    "curl|--user=me:§",
    "curl|-Ume:§|u",
    "curl|--proxy-user|me:§",
    "curl|-x|me:§@proxy:3128|u",
    "curl|-E|cert.pem:§|u",
    "curl|-b|§|u",
    "curl|-sb|§|u",
    "curl|-b§|u",
    "curl|--cookie|§|u",
    "curl|-H|Cookie: a=§|u",
    "/usr/bin/curl|-ume:§|u",
    "sudo|curl|-ume:§|u",
    "sh|-c|curl -ume:§ u",
    "sh|-c|curl -su me:§ u",
    "sh|-c|curl -su 'me:§ two' u",
    "sh|-c|curl -s -u\"me:§\" u",
    "sh|-c|a; /usr/bin/curl -sfu me:§ u ¦ sh",
    "sh|-c|x=$(curl -su me:§ u)",
    "sh|-c|bash -c \"curl -su me:§ u\"",
    "sh|-c|bash -c 'curl -su \"me:§ two\" u'",
    "ssh|h|curl -ume:§ u",
    "mysql|-uroot|-p§",
    "sshpass|-p§|ssh|h",
    "sshpass|-p|§|ssh|h",
    "docker|login|-p|§|r",
    "docker|login|-u|me|-p§|r",
    "docker|login|--password=§|r",
    "podman|login|-p|§",
    "helm|registry|login|-p|§",
    "sh|-c|docker login -u me -p § r",
    "redis-cli|-a|§",
    "redis-cli|--pass|§",
    "env|REDISCLI_AUTH=§|redis-cli",
    "ldapsearch|-x|-w|§",
    "ldapsearch|-xw§",
    "ldappasswd|-s|§",
    "openssl|enc|-k|§",
    "openssl|enc|-K|§",
    "openssl|x|-passin|pass:§",
    "openssl|x|-passout|pass:§",
    "openssl|x|-pass|pass:§",
    "openssl|dgst|-hmac|§",
    "zip|-P|§|a.zip",
    "zip|-rP§|a.zip",
    "unzip|-P|§|a.zip",
    "7z|x|-p§|a.7z",
    "mongosh|-u|me|-p|§",
    "sqlcmd|-U|sa|-P|§",
    "smbclient|-U|me%§|//h/s",
    "lftp|-u|me,§|h",
    "http|-a|me:§|u",
    "http|--auth=me:§|u",
    "snmpget|-c|§|h",
    "keytool|-storepass|§|-keypass|§",
    "skopeo|login|-p|§",
    "app|me:§@tcp(host)/d",
    "app|me:§@tcp(host:3306)/d",
    "app|me:SEC@§@unix(/run/s)/d",
    "app|--dsn=me:§@tcp(host)/d",
    "app|DSN=me:§@tcp(host)/d",
    "app|postgres://me:§@h/d",
    "app|amqp://:§@h",
    "app|jdbc:mysql://h/d?user=me&password=§",
    "app|jdbc:sqlserver://h;user=me;password=§;x=y",
    "app|Driver={x};Uid=me;Pwd=§;",
    "app|Driver={x};UID=me;PWD=§;",
    "env|PWD=§;|app",
    "app|_auth=§",
    "app|dbpass=§",
    "app|--storepass=§",
    "app|MYSQL_PWD=§",
    "app|--no-password|--password|§",
    "app|--token|--password|§",
];

#[test]
fn secrets_are_masked_by_default() {
    let mut shown = Vec::new();
    for name in [
        "password",
        "db_password",
        "AWS_SECRET_ACCESS_KEY",
        "aws_session_token",
        "api-key",
        "dbPassword",
        "client-secret",
    ] {
        for line in SECRETS {
            shown.extend(leaks(line, name, SECRET, &[ArgsMode::Redacted]));
        }
    }
    for line in TOOLS {
        shown.extend(leaks(line, "", SECRET, &[ArgsMode::Redacted]));
    }
    assert!(shown.is_empty(), "{shown:#?}");
}

/// Command lines, one per line: `|` separates arguments, `\\N` is a line end, `§` is the secret.
fn commands(table: &str) -> impl Iterator<Item = String> + '_ {
    table.lines().map(|line| line.replace("\\N", "\n"))
}

#[test]
fn command_lines_are_masked() {
    let headers = commands(include_str!("headers.txt"));
    let mut shown: Vec<String> = headers.flat_map(|line| leaks(&line, "", SECRET, &EVERY_MODE)).collect();
    let secrets = commands(include_str!("secrets.txt"));
    shown.extend(secrets.flat_map(|line| leaks(&line, "", SECRET, &[ArgsMode::Redacted])));
    assert!(shown.is_empty(), "{shown:#?}");
}

#[test]
fn ordinary_command_lines_are_shown_as_they_are() {
    for line in commands(include_str!("plain.txt")) {
        let args = args(&line, "NAME", "§");
        for mode in [ArgsMode::Full, ArgsMode::Redacted] {
            assert_eq!(mask_args(args.clone(), mode), args, "{mode:?}");
        }
    }
}

/// Tokens without a name before them.
#[test]
fn tokens_are_masked_however_they_are_written() {
    let halves = TOKEN.split_at(24);
    let (first, second) = halves;
    let bare = TOKEN.trim_end_matches('=');
    for text in [
        TOKEN.to_owned(),
        bare.to_owned(),
        TOKEN.replace('=', "%3D"),
        TOKEN.replace('=', "%3d"),
        TOKEN.replace('=', "%253D"),
        TOKEN.replace('=', "%25253D"),
        TOKEN.replace('=', "\\u003d"),
        TOKEN.replace('=', "\\u003D"),
        TOKEN.replace('=', "\\x3d"),
        TOKEN.replace('=', "\\075"),
        TOKEN.replace('=', "\\u{3d}"),
        TOKEN.replace('=', "\\U0000003d"),
        TOKEN.replace('=', "\\\\u003d"),
        TOKEN.replace('=', "&#61;"),
        TOKEN.replace('=', "&#x3d;"),
        TOKEN.replace('=', "&equals;"),
        TOKEN.replace('=', "&amp;#61;"),
        TOKEN.replace('_', "%5F"),
        format!("{first}\n{second}"),
        format!("{first}\r\n{second}"),
        format!("{first}\\\n{second}"),
        format!("{first}\n    {second}"),
        format!("{first}\\n{second}"),
        format!("{first}\\r\\n{second}"),
        format!("'{first}' + '{second}'"),
        format!("'{first}'+'{second}'"),
        format!("\"{first}\" . \"{second}\""),
        format!("'{first}' \"{second}\""),
        format!("'{first}'\n    '{second}'"),
        format!("{first}''{second}"),
        format!("{first}\"\"{second}"),
        format!("\"{first}\"'{second}'"),
        format!("{}\n{}\n{}", &TOKEN[..16], &TOKEN[16..40], &TOKEN[40..]),
        format!("x\n{}\n{}", &TOKEN[..28], &TOKEN[28..]),
    ] {
        for argument in [
            text.clone(),
            format!("a b={text}"),
            format!("print({text})"),
            format!("\"{text}\""),
        ] {
            for mode in &EVERY_MODE[..2] {
                let written = masked(&["app", &argument], *mode).join(" ");
                let shown = TOKEN
                    .as_bytes()
                    .windows(8)
                    .filter(|part| written.as_bytes().windows(8).any(|window| window == *part));
                assert_eq!(shown.count(), 0, "{mode:?}: {argument} became {written}");
            }
        }
    }
}

#[test]
fn tokens_in_names_are_masked() {
    for (name, expected) in [
        (format!("{TOKEN}.service"), "***.service"),
        (format!("a-{TOKEN}.scope"), "***.scope"),
        (format!("x@{TOKEN}.service"), "x@***.service"),
        (format!("{}.service", TOKEN.replace('=', "\\x3d")), "***.service"),
        (
            format!("{}.service", TOKEN.replace('_', "\\x5f").replace('=', "\\x3d")),
            "***.service",
        ),
    ] {
        assert_eq!(mask_path(&name), expected);
    }
}

#[test]
fn what_is_no_secret_stays_readable() {
    for line in [
        "curl|-X|PUT|-H|X-aws-ec2-metadata-token-ttl-seconds: 21600|http://169.254.169.254/latest/api/token",
        "curl|-H|X-aws-ec2-metadata-token-ttl-seconds:|21600|u",
        "python3|-c|get({'X-aws-ec2-metadata-token-ttl-seconds': '60'})",
        "sh|-c|curl -X PUT -H \"X-aws-ec2-metadata-token-ttl-seconds: 60\" http://169.254.169.254/latest/api/token",
        "docker|run|-p|80:80|-u|1000:1000|image:1.2@sha256:0123456789abcdef",
        "kubectl|get|secret|db",
        "kubectl|create|secret|generic|db",
        "aws|secretsmanager|get-secret-value|--secret-id|db",
        "aws|iam|create-access-key|--user-name|bob",
        "aws|sts|get-session-token|--duration-seconds|900",
        "aws|ecr|get-login-password|--region|eu-central-1",
        "psql|--no-password|db",
        "git|commit|-m|fix the authorization of users",
        "env|PWD=/srv|OLDPWD=/root|app",
        "sh|-c|cd \"$PWD\"; PWD=/srv app",
        "tar|-b|20|-P|-x|f",
        "ps|-u|root|-p|1",
        "git|clone|git@github.com:o/r.git",
        "scp|me@h:a|b",
        "gcloud|--member|user:me@example.com",
        "npm|i|x@npm:y@1.2.3",
        "ssh|-p|22|h",
        "curl|-u|me|u",
        "curl|-sSf|-o|/dev/null|u",
        "curl|-d|a:b|u",
        "mysql|-u|root|-h|db|-P|3306",
        "openssl|req|-new|-keyout|a",
        "python3|-c|import os; print(os.environ['HOME'] + '/x')",
        "python3|-c|a = {'b': 1, 'c': '+'}; print(a)",
        "node|-e|console.log('a' + 'b')",
        "app|\\u0041bc|C:\\new\\x41|100%|a%20b|&amp;",
    ] {
        let args = args(line, "", "");
        for mode in [ArgsMode::Full, ArgsMode::Redacted] {
            assert_eq!(mask_args(args.clone(), mode), args, "{mode:?}");
        }
    }
}

#[test]
fn what_stands_beside_a_secret_stays_readable() {
    for (line, expected) in [
        (
            "python3|-c|get(u, headers={'Authorization': 'Bearer ' + '§'}, timeout=3)",
            "python3 -c get(u, headers={'Authorization': '***'}, timeout=3)",
        ),
        (
            "python3|-c|get(u, headers={'Authorization': 'Basic {}'.format('§')}, timeout=3)",
            "python3 -c get(u, headers={'Authorization': ***}, timeout=3)",
        ),
        (
            "sh|-c|curl -H Authorization:\\ Digest\\ username=\\\"bob\\\",\\ response=\\\"§\\\" http://h/",
            "sh -c curl -H Authorization:\\ *** http://h/",
        ),
        (
            "nginx|-g|proxy_set_header Authorization Basic\\ §; x on;",
            "nginx -g proxy_set_header Authorization ***; x on;",
        ),
        (
            "app|[{\"name\":\"Authorization\",\"value\":\"§\"},{\"name\":\"Host\",\"value\":\"h\"}]",
            "app [{\"name\":\"Authorization\",\"value\":\"***\"},{\"name\":\"Host\",\"value\":\"h\"}]",
        ),
        ("curl|-sume:§|http://h/", "curl -sume:*** http://h/"),
        ("curl|-su|me:§|http://h/", "curl -su me:*** http://h/"),
        ("sh|-c|curl -su me:§ http://h/", "sh -c curl -su me:*** http://h/"),
        (
            "aws|configure|set|aws_secret_access_key|§|--profile|p",
            "aws configure set aws_secret_access_key *** --profile p",
        ),
        (
            "app|<password>§</password><a>b</a>",
            "app <password>***</password><a>b</a>",
        ),
        ("app|me:§@tcp(host:3306)/d?x=y", "app me:***@tcp(host:3306)/d?x=y"),
        ("docker|login|-u|me|-p|§|registry", "docker login -u me -p *** registry"),
        (
            "python3|-c|h[\"X-aws-ec2-metadata-token\"] = \"§\"; get(u)",
            "python3 -c h[\"X-aws-ec2-metadata-token\"] = \"***\"; get(u)",
        ),
        (
            "curl|-H|Authorization:|Splunk|§|http://h/",
            "curl -H Authorization: *** *** http://h/",
        ),
        ("app|Server=h;PWD=§;", "app Server=h;PWD=***"),
    ] {
        let args = args(line, "", SECRET);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        assert_eq!(redacted(&args), expected);
    }
}

#[test]
fn targets_and_agents_are_masked_as_arguments_are() {
    for text in [
        "curl/8 Authorization: Splunk §",
        "/?x=Authorization%3A%20Basic%20§",
        "/?x=%2541uthorization%253A%2520§",
        "/?a={\"password\":\"§\"}",
        "/latest?PWD=§",
    ] {
        let written = mask_text(&text.replace('§', SECRET));
        assert!(!written.contains(SECRET), "{text} became {written}");
    }
}

/// A name, a separator and a value, with or without quotation marks.
#[derive(Clone, Debug)]
struct Spelling {
    name: &'static str,
    /// Marks around the name and its value, around the name, and around the value.
    marks: [(&'static str, &'static str); 3],
    separator: &'static str,
    secret: String,
}

impl Spelling {
    fn text(&self) -> String {
        let [all, name, value] = self.marks;
        format!(
            "{}{}{}{}{}{}{}{}{}",
            all.0, name.0, self.name, name.1, self.separator, value.0, self.secret, value.1, all.1
        )
    }
}

fn spelling(names: &'static [&'static str]) -> impl Strategy<Value = Spelling> {
    let quotes = || {
        prop::sample::select(vec![
            ("", ""),
            ("\"", "\""),
            ("'", "'"),
            ("\\\"", "\\\""),
            ("\\'", "\\'"),
            ("\\\\\\\"", "\\\\\\\""),
            ("`", "`"),
            ("%22", "%22"),
            ("\\u0022", "\\u0022"),
            ("&quot;", "&quot;"),
        ])
    };
    let separators = prop::sample::select(vec![
        ":", ": ", " : ", "=", " = ", ":\t", "=>", " => ", "%3A", "%3A%20", "%3D", "%253D", ":\\ ", "\\u003d", "&#61;",
        ":  ",
    ]);
    let secret = "[A-Za-z0-9]{20}";
    (
        prop::sample::select(names),
        [quotes(), quotes(), quotes()],
        separators,
        secret,
    )
        .prop_map(|(name, marks, separator, secret)| Spelling {
            name,
            marks,
            separator,
            secret,
        })
}

fn around() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop::sample::select(vec![
        ("", ""),
        ("curl -H ", " http://h/"),
        ("curl -s -H", ""),
        ("get({", "})"),
        ("get({'a': 'b', ", ", 'c': d})"),
        ("{\"a\":[1,2],", ",\"b\":{}}"),
        ("x; ", "; y"),
        ("a\n", "\nb"),
        ("http://h/?a=b&", "&c=d"),
        ("<a b=\"c\">", "</a>"),
        ("don't ", " it's"),
        ("é ", " é"),
    ])
}

fn others() -> impl Strategy<Value = Vec<String>> {
    let other = prop::sample::select(vec![
        "curl",
        "-H",
        "-s",
        "",
        "sh",
        "-c",
        "http://h/",
        "a b",
        "--x=y",
        "é",
    ]);
    prop::collection::vec(other.prop_map(str::to_owned), 0..4)
}

proptest! {
    #[test]
    fn a_header_is_masked_in_any_spelling_at_any_place(
        spelling in spelling(&[
            "X-aws-ec2-metadata-token", "x-aws-ec2-metadata-token", "HTTP_X_AWS_EC2_METADATA_TOKEN", "Authorization",
            "authorization", "PROXY-AUTHORIZATION",
        ]),
        around in around(), before in others(), after in others(),
    ) {
        let mut args = before;
        args.push(format!("{}{}{}", around.0, spelling.text(), around.1));
        args.extend(after);
        for mode in &EVERY_MODE[..2] {
            let text = mask_args(args.clone(), *mode).join("\n");
            prop_assert!(!text.contains(&spelling.secret), "{mode:?}: {args:?} became {text:?}");
        }
        let text = mask_text(&args.join(" "));
        prop_assert!(!text.contains(&spelling.secret), "{args:?} became {text:?}");
    }

    #[test]
    fn a_secret_is_masked_in_any_spelling_at_any_place(
        spelling in spelling(&[
            "password", "DB_PASSWORD", "aws_secret_access_key", "AWS_SESSION_TOKEN", "--api-key", "--client-secret", "accessToken",
        ]),
        around in around(), before in others(), after in others(),
    ) {
        let mut args = before;
        args.push(format!("{}{}{}", around.0, spelling.text(), around.1));
        args.extend(after);
        let text = mask_args(args.clone(), ArgsMode::Redacted).join("\n");
        prop_assert!(!text.contains(&spelling.secret), "{args:?} became {text:?}");
    }

    #[test]
    fn a_header_is_masked_as_arguments_of_its_own(
        name in prop::sample::select(vec!["X-aws-ec2-metadata-token", "X_AWS_EC2_METADATA_TOKEN", "Authorization", "proxy-authorization"]),
        first in prop::sample::select(vec!["", ":", " :", ": ", "=", ":\t"]),
        between in prop::collection::vec(prop::sample::select(vec!["", ":", " ", "=", "\""]), 0..3),
        scheme in prop::sample::select(vec!["Bearer", "Splunk", "basic", "X-Custom"]),
        secret in "[A-Za-z0-9]{20}",
        before in others(), after in others(),
    ) {
        let mut args = before;
        args.push(format!("{name}{first}"));
        args.extend(between.into_iter().map(str::to_owned));
        if name.to_lowercase().contains("authorization") {
            args.push(scheme.to_owned());
        }
        args.push(secret.clone());
        args.extend(after);
        for mode in &EVERY_MODE[..2] {
            let text = mask_args(args.clone(), *mode).join("\n");
            prop_assert!(!text.contains(&secret), "{mode:?}: {args:?} became {text:?}");
        }
    }
}
