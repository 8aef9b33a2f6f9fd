//! Programs whose options for secrets cannot be recognised by name.

/// The kind of an option's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// The whole value is a secret.
    Secret,
    /// `user:password`, with this program's separator.
    UserInfo(u8),
    /// `user:password@host`.
    Proxy,
}

/// A program, or several that take the same options.
#[derive(Debug)]
pub(super) struct Tool {
    names: &'static [&'static str],
    /// The options have this meaning only after one of these subcommands; always if empty.
    commands: &'static [&'static str],
    /// One-letter options for a secret, joined to it (`-px`) or followed by it.
    secret: &'static [u8],
    /// One-letter options that take the secret joined, in programs that do not cluster options.
    joined: &'static [u8],
    /// One-letter options for a user and a password.
    user: &'static [u8],
    separator: u8,
    /// One-letter options for a proxy.
    proxy: &'static [u8],
    /// Other one-letter options that take a value: the letters after them are not options.
    valued: &'static [u8],
    /// Long options, without dashes.
    long: &'static [(&'static str, Value)],
    /// Words that are secrets by position, counted from a subcommand or, without one, from the program.
    places: &'static [(&'static str, usize, Value)],
    /// One-letter options can be clustered (`-su`).
    clusters: bool,
}

/// The place of an option's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// In the same word, starting at this byte.
    Joined(usize, Value),
    Next(Value),
}

const PLAIN: Tool = Tool {
    names: &[],
    commands: &[],
    secret: b"",
    joined: b"",
    user: b"",
    separator: b':',
    proxy: b"",
    valued: b"",
    long: &[],
    places: &[],
    clusters: true,
};
const USER: Value = Value::UserInfo(b':');

const TOOLS: &[Tool] = &[
    Tool {
        names: &["curl"],
        secret: b"b",
        user: b"uUE",
        proxy: b"x",
        valued: b"AcCdDeFHhKmoPQrtTwXyYz",
        long: &[
            ("user", USER),
            ("proxy", Value::Proxy),
            ("preproxy", Value::Proxy),
            ("proxy-user", USER),
            ("cert", USER),
            ("proxy-cert", USER),
            ("cookie", Value::Secret),
            ("pass", Value::Secret),
            ("proxy-pass", Value::Secret),
        ],
        ..PLAIN
    },
    Tool {
        names: &["ab"],
        user: b"AP",
        valued: b"nctsbTpugmHvwxyzXCfZ",
        ..PLAIN
    },
    Tool {
        names: &["hey", "oha", "bombardier"],
        user: b"a",
        clusters: false,
        ..PLAIN
    },
    Tool {
        names: &["http", "https", "xh", "xhs"],
        user: b"a",
        valued: b"sopA",
        long: &[("auth", USER), ("cert-key-pass", Value::Secret)],
        ..PLAIN
    },
    Tool {
        names: &[
            "mysql",
            "mysqldump",
            "mysqladmin",
            "mysqlimport",
            "mysqlcheck",
            "mysqlshow",
            "mysqlslap",
            "mysqlbinlog",
            "mysqlpump",
            "mysqlsh",
            "mariadb",
            "mariadb-dump",
            "mariadb-admin",
            "mariadb-import",
            "mariadb-check",
            "mariadb-show",
            "mariadb-binlog",
        ],
        joined: b"p",
        valued: b"uhPDeSr",
        places: &[("password", 1, Value::Secret)],
        ..PLAIN
    },
    Tool {
        names: &["sshpass"],
        secret: b"p",
        valued: b"fdP",
        ..PLAIN
    },
    Tool {
        names: &[
            "docker", "podman", "nerdctl", "buildah", "skopeo", "helm", "oras", "crane", "finch", "img", "oc", "az",
            "cf", "ibmcloud", "argocd", "regctl",
        ],
        commands: &["login"],
        secret: b"p",
        valued: b"us",
        ..PLAIN
    },
    Tool {
        names: &[
            "redis-cli",
            "valkey-cli",
            "keydb-cli",
            "redis-benchmark",
            "valkey-benchmark",
        ],
        secret: b"a",
        valued: b"hpsunridDX",
        places: &[("AUTH", 1, Value::Secret), ("auth", 1, Value::Secret)],
        clusters: false,
        ..PLAIN
    },
    Tool {
        names: &[
            "ldapsearch",
            "ldapmodify",
            "ldapadd",
            "ldapdelete",
            "ldapwhoami",
            "ldapcompare",
            "ldapmodrdn",
            "ldapexop",
        ],
        secret: b"w",
        valued: b"DHhpbsfyYUXRaleEozPO",
        ..PLAIN
    },
    Tool {
        names: &["ldappasswd"],
        secret: b"wsa",
        valued: b"DHhpbfyYUXRtTeEozPO",
        ..PLAIN
    },
    Tool {
        names: &["openssl"],
        secret: b"kK",
        long: &[
            ("pass", Value::Secret),
            ("passin", Value::Secret),
            ("passout", Value::Secret),
            ("password", Value::Secret),
            ("hmac", Value::Secret),
            ("macopt", Value::Secret),
            ("psk", Value::Secret),
            ("srppass", Value::Secret),
        ],
        clusters: false,
        ..PLAIN
    },
    Tool {
        names: &["zip", "unzip", "zipcloak", "funzip"],
        secret: b"P",
        valued: b"bdnOstxi",
        ..PLAIN
    },
    Tool {
        names: &["7z", "7za", "7zr", "7zz", "rar", "unrar"],
        joined: b"p",
        long: &[("hp", Value::Secret)],
        clusters: false,
        ..PLAIN
    },
    Tool {
        names: &[
            "mongo",
            "mongosh",
            "mongodump",
            "mongorestore",
            "mongoexport",
            "mongoimport",
            "mongostat",
            "mongotop",
            "cqlsh",
        ],
        secret: b"p",
        joined: b"p",
        valued: b"uhdcoqfj",
        clusters: false,
        ..PLAIN
    },
    Tool {
        names: &[
            "sqlcmd",
            "bcp",
            "osql",
            "isql",
            "tsql",
            "fisql",
            "sqsh",
            "ipmitool",
            "impala-shell",
        ],
        secret: b"P",
        joined: b"P",
        valued: b"USdHIiop",
        clusters: false,
        ..PLAIN
    },
    Tool {
        names: &["smbclient", "rpcclient", "smbget", "net", "smbtree", "smbcacls"],
        user: b"U",
        separator: b'%',
        valued: b"AIcdDLMmnNOopSTtW",
        long: &[("user", Value::UserInfo(b'%'))],
        places: &[("user", 2, Value::Secret)],
        ..PLAIN
    },
    Tool {
        names: &["lftp"],
        user: b"u",
        separator: b',',
        valued: b"epcfs",
        long: &[("user", Value::UserInfo(b','))],
        ..PLAIN
    },
    Tool {
        names: &[
            "snmpget",
            "snmpwalk",
            "snmpset",
            "snmpbulkwalk",
            "snmpbulkget",
            "snmpgetnext",
            "snmptrap",
            "snmptable",
        ],
        secret: b"cAX",
        joined: b"cAX",
        valued: b"valuxErtnmMO",
        clusters: false,
        ..PLAIN
    },
    Tool {
        names: &["rdesktop", "wfreerdp", "xfreerdp"],
        secret: b"p",
        valued: b"udgasckT",
        clusters: false,
        ..PLAIN
    },
    Tool {
        names: &["kinit", "keytool", "jarsigner"],
        long: &[("storepass", Value::Secret), ("keypass", Value::Secret)],
        clusters: false,
        ..PLAIN
    },
    Tool {
        names: &["ssh-keygen"],
        secret: b"NP",
        valued: b"btCfFIDnOrRsSVwWYZaeEGgJjKlLMmzT",
        ..PLAIN
    },
    Tool {
        names: &["useradd", "usermod", "groupadd", "groupmod"],
        secret: b"p",
        valued: b"bcdefgGkKlsuUR",
        ..PLAIN
    },
    Tool {
        names: &["aws"],
        commands: &["put-parameter"],
        long: &[("value", Value::Secret)],
        clusters: false,
        ..PLAIN
    },
    Tool {
        names: &["vault", "bao"],
        places: &[
            ("login", 1, Value::Secret),
            ("unwrap", 1, Value::Secret),
            ("unseal", 1, Value::Secret),
        ],
        clusters: false,
        ..PLAIN
    },
    Tool {
        names: &["rabbitmqctl"],
        places: &[
            ("add_user", 2, Value::Secret),
            ("change_password", 2, Value::Secret),
            ("authenticate_user", 2, Value::Secret),
        ],
        clusters: false,
        ..PLAIN
    },
    Tool {
        names: &["htpasswd"],
        places: &[("", 3, Value::Secret)],
        clusters: false,
        ..PLAIN
    },
    Tool {
        names: &["sqlplus", "sqlldr", "expdp", "impdp"],
        places: &[("", 1, Value::UserInfo(b'/'))],
        clusters: false,
        ..PLAIN
    },
];

/// Looks up the program with the path or name `word`.
pub(super) fn find(word: &[u8]) -> Option<&'static Tool> {
    let name = word.rsplit(|byte| matches!(byte, b'/' | b'\\')).next()?;
    let name = name.strip_suffix(b".exe").unwrap_or(name);
    TOOLS
        .iter()
        .find(|tool| tool.names.iter().any(|known| known.as_bytes() == name))
}

impl Tool {
    /// True if the options get their meaning from the subcommand `word`.
    pub(super) fn is_command(&self, word: &[u8]) -> bool {
        self.commands.iter().any(|command| command.as_bytes() == word)
    }

    /// Positions of secrets after `command`, with their kinds.
    pub(super) fn places_behind(&self, command: &[u8]) -> impl Iterator<Item = (usize, Value)> {
        let places = self.places.iter().filter(move |(name, ..)| name.as_bytes() == command);
        places.map(|(_, words, value)| (*words, *value))
    }

    pub(super) fn needs_command(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Finds the secret that the option `word` announces or contains.
    pub(super) fn option(&self, word: &[u8]) -> Option<Found> {
        let letters = word.strip_prefix(b"-").filter(|letters| !letters.is_empty())?;
        let long = letters.strip_prefix(b"-").unwrap_or(letters);
        for (name, value) in self.long {
            match long.strip_prefix(name.as_bytes()) {
                Some([]) => return Some(Found::Next(*value)),
                Some([b'=', ..]) => return Some(Found::Joined(word.len() - long.len() + name.len() + 1, *value)),
                // `-hpSECRET`.
                Some(_) if !self.clusters && name.len() == 2 => {
                    return Some(Found::Joined(word.len() - long.len() + name.len(), *value));
                }
                _ => {}
            }
        }
        if letters.starts_with(b"-") {
            return None;
        }
        let reach = if self.clusters { letters.len() } else { 1 };
        for (at, letter) in letters.iter().enumerate().take(reach) {
            let (joined, value) = if self.user.contains(letter) {
                (false, Value::UserInfo(self.separator))
            } else if self.secret.contains(letter) && (self.clusters || letters.len() == 1) {
                (false, Value::Secret)
            } else if self.joined.contains(letter) {
                (true, Value::Secret)
            } else if self.proxy.contains(letter) {
                (false, Value::Proxy)
            } else if self.valued.contains(letter) {
                return None;
            } else {
                continue;
            };
            // Skips the dash and the letter.
            return match at + 2 {
                end if end < word.len() => Some(Found::Joined(end, value)),
                _ if joined => None,
                _ => Some(Found::Next(value)),
            };
        }
        None
    }
}
