//! Writing exports.

use aa_ledger::{ExportError, ExportWriter, Hash};

use crate::log::{Log, check, workspace};

#[test]
fn an_export_is_the_golden_file() {
    let mut log = Log::with_decisions(3);
    assert_eq!(String::from_utf8(log.export()).unwrap(), include_str!("../golden/export.jsonl"));
    log.decide(2);
    let partial = String::from_utf8(log.export_from(5)).unwrap();
    assert_eq!(partial, include_str!("../golden/export-partial.jsonl"));
}

#[test]
fn the_golden_exports_are_of_one_log() {
    let exports: [&[u8]; 2] = [
        include_bytes!("../golden/export.jsonl"),
        include_bytes!("../golden/export-partial.jsonl"),
    ];
    let report = check(&exports, None, None).unwrap();
    assert!(report.intact, "{report}");
}

#[test]
fn an_export_that_is_not_what_its_checkpoint_covers_is_not_closed() {
    let log = Log::with_decisions(3);
    let key = log.log_key.verifier();
    let (checkpoint, note) = (log.checkpoint(), log.note());
    let writer = |first, frontier: &[Hash]| {
        ExportWriter::new(Vec::new(), first, frontier, key, &checkpoint, &note)
    };
    let misfit = writer(3, &[Hash::ZERO]);
    assert!(matches!(misfit, Err(ExportError::Frontier { frontier: 1, first: 3, size: 5 })));
    assert!(matches!(writer(6, &[Hash::ZERO; 2]), Err(ExportError::Frontier { .. })));

    let mut short = writer(0, &[]).unwrap();
    short.entry(&log.lines[0]).unwrap();
    assert!(matches!(short.finish(), Err(ExportError::Count { expected: 5, written: 1 })));

    let mut long = writer(0, &[]).unwrap();
    for line in &log.lines {
        long.entry(line).unwrap();
    }
    assert!(matches!(
        long.entry(&log.lines[0]),
        Err(ExportError::Count { expected: 5, written: 6 })
    ));
}

#[test]
fn a_line_of_another_workspace_or_of_none_is_not_exported() {
    let log = Log::with_decisions(1);
    let mut other = Log::new(1);
    other.decide(1);
    let key = log.log_key.verifier();
    let mut writer =
        ExportWriter::new(Vec::new(), 0, &[], key, &log.checkpoint(), &log.note()).unwrap();
    let two_lines = [log.lines[0].as_slice(), b"\n"].concat();
    for line in [other.lines[0].as_slice(), b"{}", &two_lines] {
        let refused = writer.entry(line);
        assert!(
            matches!(refused, Err(ExportError::Entry { index: 0, workspace: own }) if own == workspace(0))
        );
    }
}
