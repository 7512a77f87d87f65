//! Answers to requests for approval that are given by button in Slack.

use std::sync::Arc;

use aa_notify::{
    Channel, Destination, SlackChannel,
    slack::{self, Interaction, NotAnInteraction},
};
use aa_protocol::WorkspaceId;
use aa_vault::SecretName;

use super::{Governance, GovernanceError};
use crate::{
    api_key::KeyRecord,
    approval_record::{ApprovalRecord, ApprovalScope},
    keys,
    permission::{AnswerApprovals, Grant, Principal},
    secret_record::SecretRecord,
    stored,
    vault::SecretError,
};

/// Why a request that says it is from Slack was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SlackRefusal {
    /// It is not signed by the app of that destination, or there is no such destination.
    #[error("the request is not signed with the signing secret of this destination")]
    NotSigned,
    /// It is none of a button.
    #[error(transparent)]
    NotUnderstood(#[from] NotAnInteraction),
    /// The store or the vault does not answer.
    #[error(transparent)]
    Unavailable(Box<GovernanceError>),
}

impl Governance {
    /// Takes the press of a button: the person's API key, which the destination names, answers the request. What
    /// became of it is said in Slack.
    ///
    /// # Errors
    /// See [`SlackRefusal`]; nothing was answered then.
    pub async fn take_slack_interaction(
        &self,
        workspace: WorkspaceId,
        destination: &str,
        (timestamp, signature): (&str, &str),
        body: &[u8],
    ) -> Result<(), SlackRefusal> {
        let channel = self.slack_channel(workspace, destination).await?;
        let channel = channel.ok_or(SlackRefusal::NotSigned)?;
        let secret = channel.signing_secret.clone().ok_or(SlackRefusal::NotSigned)?;
        let unavailable = |error| SlackRefusal::Unavailable(Box::new(error));
        if !self.is_owners(workspace, &secret).await.map_err(unavailable)? {
            tracing::warn!(
                %workspace, destination,
                "buttons are refused: the signing secret was not set by an owner, who alone may hand out keys' voices"
            );
            return Err(SlackRefusal::NotSigned);
        }
        let secret = match self.open_secret(workspace, secret).await {
            Ok(secret) => secret,
            Err(GovernanceError::Secret(SecretError::Unknown(_))) => {
                return Err(SlackRefusal::NotSigned);
            }
            Err(error) => return Err(SlackRefusal::Unavailable(Box::new(error))),
        };
        let now = self.services.clock.now();
        slack::verify_request(&secret, timestamp, signature, body, now)
            .map_err(|_| SlackRefusal::NotSigned)?;
        let interaction = Interaction::parse(body)?;
        // Slack waits three seconds for an answer, and takes what became of it for half an hour.
        let governance = self.clone();
        tokio::spawn(async move {
            let (text, is_settled) =
                governance.answer_by_button(workspace, &channel, &interaction).await;
            let body = slack::follow_up(&text, is_settled);
            let sender = Arc::clone(&governance.services.sender);
            if let Err(error) = sender.follow_up(&interaction.response_url, body, now).await {
                tracing::warn!(%workspace, %error, "what became of a button was not said in Slack");
            }
        });
        Ok(())
    }

    /// Whether a secret was set by somebody who is an owner still. Whoever knows the signing secret can answer as every key
    /// that the destination names.
    async fn is_owners(
        &self,
        workspace: WorkspaceId,
        secret: &SecretName,
    ) -> Result<bool, GovernanceError> {
        let at = keys::secret(workspace, secret.as_str());
        let mut txn = self.services.node.store().begin().await?;
        let Some(found) = txn.get_snapshot(&at).await? else { return Ok(false) };
        let record: SecretRecord = stored::decode(&at, &found)?;
        let Some(key_id) = record.updated_by.strip_prefix("key:") else { return Ok(false) };
        let setter = self.principal(workspace, key_id).await?;
        Ok(setter.is_some_and(|setter| setter.grant == Grant::Owner))
    }

    async fn slack_channel(
        &self,
        workspace: WorkspaceId,
        destination: &str,
    ) -> Result<Option<SlackChannel>, SlackRefusal> {
        let unavailable = |error: GovernanceError| SlackRefusal::Unavailable(Box::new(error));
        let begun = self.services.node.store().begin().await;
        let mut txn = begun.map_err(|error| unavailable(error.into()))?;
        let key = keys::alert_destination(workspace, destination);
        let found = match txn.get_snapshot(&key).await {
            Ok(found) => found,
            Err(error) => return Err(unavailable(error.into())),
        };
        let Some(found) = found else { return Ok(None) };
        let found: Destination =
            stored::decode(&key, &found).map_err(|error| unavailable(error.into()))?;
        match found.channel {
            Channel::Slack(channel) => Ok(Some(channel)),
            Channel::Webhook(_) | Channel::Email(_) => Ok(None),
        }
    }

    /// What became of a button, for the person, and whether the request needs no button any more.
    async fn answer_by_button(
        &self,
        workspace: WorkspaceId,
        channel: &SlackChannel,
        interaction: &Interaction,
    ) -> (String, bool) {
        let Interaction { user, approval, answer, .. } = interaction;
        let Some(key) = channel.approvers.get(user) else {
            let text = format!(
                "You cannot answer here: your Slack member id {user} belongs to no API key in this destination. An \
                 owner or admin can add it."
            );
            return (text, false);
        };
        let permit = match self.principal(workspace, key).await {
            Ok(Some(principal)) => principal.authorize::<AnswerApprovals>(),
            Ok(None) => return (format!("The API key {key} is unknown or revoked."), false),
            Err(error) => return (format!("Not answered: {error}"), false),
        };
        let permit = match permit {
            Ok(permit) => permit,
            Err(error) => return (format!("Not answered: {error}"), false),
        };
        let (approved, scope) = match answer {
            slack::Answer::Approve => (true, ApprovalScope::Once),
            slack::Answer::ApproveForSession => (true, ApprovalScope::Session),
            slack::Answer::Deny => (false, ApprovalScope::Once),
        };
        let reason = format!("by {user} in Slack");
        match self.answer_approval(&permit, *approval, approved, scope, &reason).await {
            Ok(record) => (said(&record, approved, user), record.outcome.is_some()),
            Err(error) => (format!("Not answered: {error}"), false),
        }
    }

    /// The principal of an API key, by the key's id; `None` when it is unknown or revoked.
    async fn principal(
        &self,
        workspace: WorkspaceId,
        key_id: &str,
    ) -> Result<Option<Principal>, GovernanceError> {
        let at = keys::api_key_id(workspace, key_id);
        let mut txn = self.services.node.store().begin().await?;
        let Some(stored) = txn.get_snapshot(&at).await? else { return Ok(None) };
        let record: KeyRecord = stored::decode(&at, &stored)?;
        if record.revoked_at.is_some() || record.workspace != workspace {
            return Ok(None);
        }
        let KeyRecord { workspace, id, grant, .. } = record;
        Ok(Some(Principal { workspace, key_id: id, grant }))
    }
}

fn said(record: &ApprovalRecord, approved: bool, user: &str) -> String {
    let id = record.id;
    match record.state() {
        "pending" => format!("{user} approved request {id}; others must as well."),
        _ if approved => format!("Request {id} was approved by {user}."),
        _ => format!("Request {id} was denied by {user}."),
    }
}
