//! What is recorded of an agent without a decision: what it reports, and what the edge refused.

use aa_ledger::{ActionSummary, Draft, Kind};
use aa_protocol::{EventId, Timestamp};
use aa_runtime::{Fault, Record, Reply};

use super::{AgentActor, Known, NotRegistered, Refusal, Report, Writes, particulars::Particulars};
use crate::recent_actions::ActionKey;

impl AgentActor {
    pub(super) fn record_event(
        &mut self,
        report: &Report,
        now: Timestamp,
        reply: Reply<Result<EventId, NotRegistered>>,
    ) {
        let key = ActionKey::Event(report.id);
        if let Some(position) = self.recent.position(key) {
            self.event_again(position, reply);
            return;
        }
        // Only to learn which names hold sensitive text: nothing is decided after the fact.
        let Some(judgement) =
            self.judge_with(&report.action, Known::of_session(report.session), now)
        else {
            reply.send(Ok(Err(NotRegistered(self.id.agent))));
            return;
        };
        let findings = &judgement.outcome().decision.findings;
        let summary = ActionSummary::of(&report.action, report.id, findings);
        let duration = report.duration_us.to_string();
        let occurred = report.occurred_at.map(|time| time.to_string());
        let mut detail =
            vec![("duration_us", duration.as_str()), ("outcome", report.outcome.as_str())];
        if let Some(occurred) = &occurred {
            detail.push(("occurred_at", occurred));
        }
        let mut armed = Particulars::nothing();
        self.arm_by_report(report, &mut armed);
        detail.extend(armed.detail.iter().map(|(key, value)| (*key, value.as_str())));
        let event = self.services.entropy.event_id(now);
        let entry = self.seal(&Draft {
            kind: Kind::Event,
            action: Some(&summary),
            trace: report.trace,
            parent_span: report.parent_span,
            detail: &detail,
            ..self.draft(event, now)
        });
        let done = Reply::new(move |committed: Result<(), Fault>| {
            reply.send(committed.map(|()| Ok(event)));
        });
        let Particulars { writes, removes, .. } = armed;
        let record = Record { entry: Some(entry), writes, removes, news: Vec::new(), done };
        if let Some(position) = self.append_record(record) {
            self.recent.remember(key, position);
        }
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal, now: Timestamp, reply: Reply<()>) {
        if self.record.is_none() {
            reply.send(Ok(()));
            return;
        }
        self.services.metrics.count_refusal();
        let detail = [("code", refusal.code.as_ref()), ("message", refusal.message.as_str())];
        let event = self.services.entropy.event_id(now);
        let entry =
            self.seal(&Draft { kind: Kind::Refusal, detail: &detail, ..self.draft(event, now) });
        self.append(entry, Writes::new(), reply);
    }
}
