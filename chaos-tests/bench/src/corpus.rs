//! Texts and patterns for scanning, made from a seed so that every run scans the same bytes.

use std::fmt::Write as _;

/// The patterns that the policy reference shows.
pub const OF_THE_SPEC: [&str; 3] =
    ["sk-[a-zA-Z0-9]{48}", r"\b\d{3}-\d{2}-\d{4}\b", r"(?i)password\s*[:=]\s*\S+"];

/// A kind of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// English sentences.
    Prose,
    /// Records as a tool returns them.
    Json,
    /// Source code with comments.
    Source,
    /// Log lines with times, ids and blobs in base64.
    Logs,
}

/// A small generator (SplitMix64, Steele et al. 2014): good enough for texts, and the same everywhere.
struct Dice(u64);

const WORDS: &str = "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one you were all her she there would their we him been has when who will no more if out so said what up its about than into them can only other time new some could these two may first then do any like my now over such our man me even most made after also did many off before must well back through years where much your way down should because long each just those people how too little state good make world still see own work men day get here between both life being under never same another know while last might us great old year come since against go came right used take three states himself few house use during without again place around however home small found thought went say part once general high upon school every token secret access account private public service session request payment report error value system process network database record delivery invoice customer order";

// === impl Kind ===

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Prose, Self::Json, Self::Source, Self::Logs];

    /// The kind as tables name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prose => "English prose",
            Self::Json => "JSON",
            Self::Source => "source code",
            Self::Logs => "base64-heavy logs",
        }
    }

    /// At least `length` bytes of clean text: no realistic pattern matches in it.
    pub fn clean(self, length: usize) -> String {
        let mut dice = Dice(self as u64 + 1);
        let mut text = String::with_capacity(length + 512);
        while text.len() < length {
            // Writing to a string cannot fail.
            let _ = match self {
                Self::Prose => sentence(&mut text, &mut dice),
                Self::Json => record(&mut text, &mut dice),
                Self::Source => function(&mut text, &mut dice),
                Self::Logs => log_line(&mut text, &mut dice),
            };
        }
        text
    }

    /// The same text with something that a pattern matches about every 16 KiB.
    pub fn dirty(self, length: usize) -> String {
        const SECRETS: [&str; 8] = [
            "078-05-1120",
            "AKIAIOSFODNN7EXAMPLE",
            "password: hunter2hunter2",
            "ghp_0123456789abcdefghijABCDEFGHIJ012345",
            "ada.lovelace@analytical.example",
            "4111 1111 1111 1111",
            "sk-abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKL",
            "-----BEGIN RSA PRIVATE KEY-----",
        ];
        let clean = self.clean(length);
        let mut text = String::with_capacity(clean.len() + clean.len() / 256);
        for (number, line) in clean.split_inclusive('\n').enumerate() {
            if text.len() / 16_384 != (text.len() + line.len()) / 16_384 {
                let _ = writeln!(text, " {} ", SECRETS[number % SECRETS.len()]);
            }
            text.push_str(line);
        }
        text
    }
}

// === impl Dice ===

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }

    fn word(&mut self) -> &'static str {
        let count = WORDS.split(' ').count();
        WORDS.split(' ').nth(self.below(count)).unwrap_or_default()
    }
}

fn sentence(text: &mut String, dice: &mut Dice) -> std::fmt::Result {
    let length = 6 + dice.below(16);
    for place in 0..length {
        let word = dice.word();
        let (first, rest) = word.split_at(1);
        match place {
            0 => write!(text, "{}{rest}", first.to_uppercase())?,
            _ => write!(text, " {word}")?,
        }
        if dice.below(12) == 0 && place + 1 < length {
            text.push(',');
        }
    }
    text.push_str(if dice.below(5) == 0 { ".\n" } else { ". " });
    Ok(())
}

fn record(text: &mut String, dice: &mut Dice) -> std::fmt::Result {
    writeln!(
        text,
        r#"{{"id": {}, "customer": "{} {}", "status": "{}", "total": {}.{:02}, "created_at": "2026-{:02}-{:02}T{:02}:{:02}:{:02}Z", "tags": ["{}", "{}"], "shipped": {}, "note": "{} {} {} {}"}}"#,
        dice.below(1_000_000),
        dice.word(),
        dice.word(),
        dice.word(),
        dice.below(900),
        dice.below(100),
        1 + dice.below(12),
        1 + dice.below(28),
        dice.below(24),
        dice.below(60),
        dice.below(60),
        dice.word(),
        dice.word(),
        dice.below(2) == 0,
        dice.word(),
        dice.word(),
        dice.word(),
        dice.word(),
    )
}

fn function(text: &mut String, dice: &mut Dice) -> std::fmt::Result {
    let [name, argument, local, field, call] = std::array::from_fn(|_| dice.word());
    writeln!(
        text,
        "/// {} {} {} {}.\npub fn {name}_{field}({argument}: &str, {local}: usize) -> Option<{}> {{\n    let {call} = self.{field}.get({local} + {})?;\n    if {call}.len() > {} && {argument} != \"{}\" {{\n        return None; // {} {}\n    }}\n    self.{name}({argument}, {call}[{}])\n}}\n",
        dice.word(),
        dice.word(),
        dice.word(),
        dice.word(),
        dice.word(),
        dice.below(64),
        dice.below(4096),
        dice.word(),
        dice.word(),
        dice.word(),
        dice.below(16),
    )
}

fn log_line(text: &mut String, dice: &mut Dice) -> std::fmt::Result {
    const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    write!(
        text,
        "2026-11-{:02}T{:02}:{:02}:{:02}.{:06}Z INFO {}::{} took={}us body=",
        1 + dice.below(28),
        dice.below(24),
        dice.below(60),
        dice.below(60),
        dice.below(1_000_000),
        dice.word(),
        dice.word(),
        dice.below(100_000),
    )?;
    for _ in 0..dice.below(120) + 8 {
        let mut bits = dice.roll();
        for _ in 0..4 {
            text.push(char::from(BASE64[(bits & 63) as usize]));
            bits >>= 6;
        }
    }
    text.push('\n');
    Ok(())
}

/// Two hundred patterns of the shapes that secret scanners and data-protection rules use.
pub fn realistic() -> Vec<String> {
    let mut patterns: Vec<String> = SHAPES.iter().map(|shape| (*shape).to_owned()).collect();
    // The commonest shape of all: a vendor's name near an assignment of a token.
    patterns.extend(VENDORS.iter().map(|vendor| {
        format!(
            r#"(?i){vendor}[\w.-]{{0,20}}(?:key|token|secret|api)[\w.-]{{0,20}}["']?\s{{0,3}}[:=]\s{{0,3}}["']?([a-z0-9_\-]{{20,64}})\b"#
        )
    }));
    patterns
}

const VENDORS: [&str; 100] = [
    "adafruit",
    "adobe",
    "airtable",
    "algolia",
    "alibaba",
    "amplitude",
    "ansible",
    "artifactory",
    "asana",
    "atlassian",
    "auth0",
    "azure",
    "beamer",
    "bitbucket",
    "bittrex",
    "box",
    "bugsnag",
    "chargebee",
    "circleci",
    "clickhouse",
    "clojars",
    "cloudflare",
    "cloudinary",
    "codecov",
    "coinbase",
    "confluent",
    "contentful",
    "cypress",
    "datadog",
    "databricks",
    "digitalocean",
    "discord",
    "docker",
    "doppler",
    "drone",
    "dropbox",
    "duffel",
    "dynatrace",
    "easypost",
    "elastic",
    "etsy",
    "facebook",
    "fastly",
    "figma",
    "finicity",
    "finnhub",
    "flickr",
    "flutterwave",
    "frame",
    "freshbooks",
    "gitlab",
    "gitter",
    "gocardless",
    "grafana",
    "harness",
    "hashicorp",
    "heroku",
    "hubspot",
    "huggingface",
    "intercom",
    "intra42",
    "jfrog",
    "jumpcloud",
    "kraken",
    "kucoin",
    "launchdarkly",
    "linear",
    "linkedin",
    "lob",
    "looker",
    "mailchimp",
    "mailgun",
    "mapbox",
    "mattermost",
    "messagebird",
    "mixpanel",
    "mongodb",
    "netlify",
    "newrelic",
    "notion",
    "nytimes",
    "okta",
    "openai",
    "opsgenie",
    "pagerduty",
    "paypal",
    "plaid",
    "planetscale",
    "postman",
    "pulumi",
    "readme",
    "rubygems",
    "scalingo",
    "sendbird",
    "sentry",
    "shippo",
    "snyk",
    "squarespace",
    "sumologic",
    "zendesk",
];

const SHAPES: [&str; 100] = [
    r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b",
    r#"(?i)aws_?secret_?access_?key["']?\s*[:=]\s*["']?[A-Za-z0-9/+]{40}"#,
    r"\bAIza[0-9A-Za-z_\-]{35}\b",
    r"\bya29\.[0-9A-Za-z_\-]{20,}",
    r"\b[0-9]{8,16}-[0-9a-z]{32}\.apps\.googleusercontent\.com\b",
    r"\bghp_[A-Za-z0-9]{36}\b",
    r"\bgho_[A-Za-z0-9]{36}\b",
    r"\b(?:ghu|ghs)_[A-Za-z0-9]{36}\b",
    r"\bghr_[A-Za-z0-9]{36}\b",
    r"\bgithub_pat_[A-Za-z0-9_]{82}\b",
    r"\bglpat-[A-Za-z0-9_\-]{20}\b",
    r"\bglptt-[0-9a-f]{40}\b",
    r"\bGR1348941[A-Za-z0-9_\-]{20}\b",
    r"\bxox[baprs]-[0-9A-Za-z\-]{10,72}\b",
    r"\bxapp-[0-9]-[A-Z0-9]+-[0-9]+-[a-z0-9]+\b",
    r"https://hooks\.slack\.com/services/[A-Za-z0-9+/]{43,56}",
    r"https://discord(?:app)?\.com/api/webhooks/[0-9]{17,20}/[A-Za-z0-9_\-]{60,80}",
    r"https://[a-z0-9]+\.webhook\.office\.com/webhookb2/[a-z0-9@/\-]{60,}",
    r"\bsk_live_[0-9a-zA-Z]{24,99}\b",
    r"\bsk_test_[0-9a-zA-Z]{24,99}\b",
    r"\brk_live_[0-9a-zA-Z]{24,99}\b",
    r"\bpk_live_[0-9a-zA-Z]{24,99}\b",
    r"\bwhsec_[A-Za-z0-9]{32}\b",
    r"\bsk-ant-api03-[A-Za-z0-9_\-]{93}AA\b",
    r"\bsk-proj-[A-Za-z0-9_\-]{40,}\b",
    r"\bsk-[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}\b",
    r"\bhf_[A-Za-z]{34}\b",
    r"\bapi_org_[A-Za-z]{34}\b",
    r"\br8_[A-Za-z0-9]{37}\b",
    r"\bpplx-[A-Za-z0-9]{48}\b",
    r"\bgsk_[A-Za-z0-9]{52}\b",
    r"\bSG\.[A-Za-z0-9_\-]{22}\.[A-Za-z0-9_\-]{43}\b",
    r"\bkey-[0-9a-f]{32}\b",
    r"\b[0-9a-f]{32}-us[0-9]{1,2}\b",
    r"\bSK[0-9a-f]{32}\b",
    r"\bAC[0-9a-f]{32}\b",
    r"\bnpm_[A-Za-z0-9]{36}\b",
    r"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_\-]{50,}",
    r"\brubygems_[a-f0-9]{48}\b",
    r"\bdckr_pat_[A-Za-z0-9_\-]{27}\b",
    r"\bdop_v1_[a-f0-9]{64}\b",
    r"\bdoo_v1_[a-f0-9]{64}\b",
    r"\bdp\.pt\.[A-Za-z0-9]{43}\b",
    r"\bduffel_(?:test|live)_[A-Za-z0-9_\-]{43}\b",
    r"\bdt0c01\.[A-Z0-9]{24}\.[A-Z0-9]{64}\b",
    r"\bEZAK[a-zA-Z0-9]{54}\b",
    r"\bfig[dur]_[A-Za-z0-9_\-]{40,}\b",
    r"\bfio-u-[A-Za-z0-9_\-=]{64}\b",
    r"\bFLWSECK_TEST-[a-h0-9]{12}\b",
    r"\bglsa_[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}\b",
    r"\bglc_[A-Za-z0-9+/]{32,400}={0,2}",
    r"\b[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_\-=]{60,70}\b",
    r"\bhvs\.[A-Za-z0-9_\-]{90,120}\b",
    r"\bhvb\.[A-Za-z0-9_\-]{138,212}\b",
    r"\blin_api_[A-Za-z0-9]{40}\b",
    r"\bNRAK-[A-Z0-9]{27}\b",
    r"\bNRII-[A-Za-z0-9\-]{32}\b",
    r"\bsecret_[A-Za-z0-9]{43}\b",
    r"\bntn_[A-Za-z0-9]{46}\b",
    r"\bpscale_tkn_[A-Za-z0-9_\-.=]{32,64}\b",
    r"\bpscale_pw_[A-Za-z0-9_\-.=]{32,64}\b",
    r"\bPMAK-[a-f0-9]{24}-[a-f0-9]{34}\b",
    r"\bpul-[a-f0-9]{40}\b",
    r"\brdme_[a-z0-9]{70}\b",
    r"\bshpat_[a-fA-F0-9]{32}\b",
    r"\bshpca_[a-fA-F0-9]{32}\b",
    r"\bshpss_[a-fA-F0-9]{32}\b",
    r"\bsq0atp-[A-Za-z0-9_\-]{22}\b",
    r"\bsq0csp-[A-Za-z0-9_\-]{43}\b",
    r"\bEAAA[A-Za-z0-9]{60}\b",
    r"\baccess_token\$production\$[0-9a-z]{16}\$[0-9a-f]{32}\b",
    r"\bsntrys_[A-Za-z0-9+/=_]{60,}",
    r"\bdapi[a-f0-9]{32}\b",
    r"\bpat[A-Za-z0-9]{14}\.[a-f0-9]{64}\b",
    r"\bATATT3[A-Za-z0-9_\-=]{186}\b",
    r"\bCFPAT-[A-Za-z0-9_\-]{43}\b",
    r"\bAGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}\b",
    r"-----BEGIN (?:RSA |EC |DSA |OPENSSH |PGP )?PRIVATE KEY(?: BLOCK)?-----",
    r"\beyJ[A-Za-z0-9_\-]{10,}\.eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{10,}",
    r#"(?i)\b(?:postgres|postgresql|mysql|mongodb(?:\+srv)?|redis|amqp)://[^\s:@/]{1,64}:[^\s:@/]{1,64}@[^\s/]+"#,
    r"(?i)\bAccountKey=[A-Za-z0-9+/]{86}==",
    r"(?i)\bSharedAccessSignature=[^\s;]{20,}",
    r"(?i)\bsig=[A-Za-z0-9%]{43,63}%3D",
    r"\b[A-Za-z0-9_.+-]+@[A-Za-z0-9-]+\.[A-Za-z0-9.-]+\b",
    r"\b(?:4[0-9]{3}|5[1-5][0-9]{2}|6011|3[47][0-9]{2})[ -]?[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]{3,4}\b",
    r"\b3[47][0-9]{2}[ -]?[0-9]{6}[ -]?[0-9]{5}\b",
    r"\b[A-Z]{2}[0-9]{2} ?[A-Z0-9]{4} ?[0-9]{4} ?[0-9]{4} ?[0-9]{2,4} ?[0-9]{0,4}\b",
    r"\b(?:DE|AT)[0-9]{2}(?: ?[0-9]{4}){4} ?[0-9]{2}\b",
    r"\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]\b",
    r"\b9[0-9]{2}-[7-9][0-9]-[0-9]{4}\b",
    r"\b[0-9]{2}-[0-9]{7}\b",
    r"\+[1-9][0-9]{0,2}[ -]?\(?[0-9]{2,4}\)?[ -]?[0-9]{3,4}[ -]?[0-9]{3,4}\b",
    r"\(?\b[2-9][0-9]{2}\)?[ -.][2-9][0-9]{2}[ -.][0-9]{4}\b",
    r"\b(?:bc1|[13])[a-km-zA-HJ-NP-Z1-9]{25,39}\b",
    r"\b0x[a-fA-F0-9]{40}\b",
    r"\b(?:[A-Fa-f0-9]{2}:){5}[A-Fa-f0-9]{2}\b",
    r"(?i)\b(?:passport|passeport)\s*(?:no|number|nr)?\.?\s*[:#]?\s*[A-Z0-9]{6,9}\b",
    r"(?i)\bdate of birth\s*[:=]?\s*[0-9]{1,2}[./-][0-9]{1,2}[./-][0-9]{2,4}",
    r"(?i)\b(?:mrn|patient id)\s*[:#]\s*[0-9]{6,10}\b",
    r#"(?i)\b(?:secret|private)[_-]?key["']?\s*[:=]\s*["'][^"'\s]{16,}["']"#,
];
