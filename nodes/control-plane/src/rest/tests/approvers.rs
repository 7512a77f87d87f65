use super::{approvals::id_of, *};

#[tokio::test]
async fn groups_and_chains_are_set_read_changed_and_removed() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.get("/approvers").await.ok(200).json(), json!({"groups": [], "chains": []}));
    let key = id_of(&fixture.owner).to_owned();
    let set = json!({"members": [key, key]});
    let group = fixture.put("/approvers/groups/on%2Fcall", set).await.ok(201).json();
    assert_eq!(group, json!({"name": "on/call", "members": [key], "needed": 1}));
    let changed = fixture.put("/approvers/groups/on%2Fcall", json!({"needed": 2})).await.ok(200);
    assert_eq!(changed.json(), json!({"name": "on/call", "members": [], "needed": 2}));

    let stages = json!([{"group": "on/call", "share": 60}, {"needed": 2, "share": 40}]);
    let chain = fixture.put("/approvers/chains/teams/a%20b", json!({"stages": stages})).await;
    let stages = json!([
        {"group": "on/call", "needed": 1, "share": 60},
        {"group": null, "needed": 2, "share": 40},
    ]);
    let chain = chain.ok(201).json();
    assert_eq!(chain, json!({"team": "a b", "stages": stages}));
    let whole = json!({"stages": [{"group": null, "share": 100}]});
    fixture.put("/approvers/chains/workspace", whole.clone()).await.ok(201);
    let whole = fixture.put("/approvers/chains/workspace", whole).await.ok(200).json();
    assert_eq!(whole["team"], Value::Null);
    let viewer = fixture.key(Grant::Viewer).await;
    let all = fixture.call(&viewer, Method::GET, "/approvers", None).await.ok(200).json();
    assert_eq!(all, json!({"groups": [changed.json()], "chains": [whole, chain]}));

    for (path, removed, gone) in [
        ("groups/on%2Fcall", changed.json(), "there is no group `on/call` in this workspace"),
        ("chains/teams/a%20b", chain, "there is no chain of team `a b` in this workspace"),
        ("chains/workspace", whole, "this workspace has no chain of its own"),
    ] {
        let path = format!("/approvers/{path}");
        assert_eq!(fixture.delete(&path).await.ok(200).json(), removed);
        let again = fixture.delete(&path).await.problem(404, "not-found");
        assert!(again.detail.starts_with(gone), "{}", again.detail);
    }
    let entries = fixture.get("/audit/entries?kind=approval").await.ok(200).json();
    let changes: Vec<_> =
        entries["entries"].as_array().unwrap().iter().map(|e| &e["detail"]["change"]).collect();
    let (group, chain) = ("group_set", "chain_set");
    let removed = ["chain_removed", "chain_removed", "group_removed"];
    assert_eq!(changes, [removed.as_slice(), &[chain, chain, chain, group, group]].concat());
}

#[tokio::test]
async fn wrong_groups_and_chains_are_refused_with_what_was_expected() {
    let fixture = Fixture::new().await;
    let long = "x".repeat(129);
    for (path, body, reason) in [
        ("groups/g", json!({"members": ["a b"]}), "the ids of their keys"),
        ("groups/g", json!({"members": [""]}), "the ids of their keys"),
        ("groups/g", json!({"members": ["a"], "needed": 2}), "2 of 1 members"),
        ("groups/g", json!({"members": ["a", "a"], "needed": 2}), "2 of 1 members"),
        ("groups/g", json!({"members": ["a"], "needed": 0}), "0 of 1 members"),
        ("groups/g", json!({"needed": -1}), "invalid value"),
        ("groups/g", json!({"people": []}), "unknown field"),
        ("groups/a%00b", json!({}), "is not a name"),
        (&format!("groups/{long}"), json!({}), "is not a name"),
        ("chains/workspace", json!({}), "missing field"),
        ("chains/workspace", json!({"stages": []}), "at least one stage"),
        ("chains/workspace", json!({"stages": [{"share": 99}]}), "add up to 99 per cent"),
        ("chains/workspace", json!({"stages": [{"share": 100}, {"share": 0}]}), "above 0"),
        ("chains/workspace", json!({"stages": [{"share": 100, "needed": 0}]}), "0 of 100 members"),
        ("chains/workspace", json!({"stages": [{"share": 100, "group": ""}]}), "leave it out"),
        ("chains/workspace", json!({"stages": [{"share": 100, "who": "x"}]}), "unknown field"),
        ("chains/workspace", json!({"stages": [{"share": 4_294_967_296_u64}]}), "invalid value"),
        (&format!("chains/teams/{long}"), json!({"stages": [{"share": 100}]}), "is not a name"),
    ] {
        let refused = fixture.put(&format!("/approvers/{path}"), body).await;
        let detail = refused.problem(400, "invalid-request").detail;
        assert!(detail.contains(reason), "{path}: {detail}");
    }
    let many: Vec<_> = (0..101).map(|number| number.to_string()).collect();
    let many = fixture.put("/approvers/groups/g", json!({"members": many})).await;
    assert!(many.problem(400, "invalid-request").detail.contains("at most 100"));
    let stages: Vec<_> = (0..9).map(|_| json!({"share": 10})).collect();
    let many = fixture.put("/approvers/chains/workspace", json!({"stages": stages})).await;
    assert!(many.problem(400, "invalid-request").detail.contains("at most 8"));
    let unchanged = fixture.get("/approvers").await.ok(200).json();
    assert_eq!(unchanged, json!({"groups": [], "chains": []}));
}

#[tokio::test]
async fn a_whole_key_given_as_a_member_is_neither_kept_nor_repeated() {
    let fixture = Fixture::new().await;
    let members = json!({"members": [fixture.owner]});
    let refused = fixture.put("/approvers/groups/g", members).await;
    assert!(!refused.text().contains(&fixture.owner));
    refused.problem(400, "invalid-request");
    let log = fixture.get("/audit/entries").await.ok(200);
    assert!(!log.text().contains(&fixture.owner));
}

#[tokio::test]
async fn a_tenant_has_approvers_of_its_own() {
    let fixture = Fixture::new().await;
    let stranger = fixture.stranger().await;
    fixture.put("/approvers/groups/g", json!({})).await.ok(201);
    let seen = fixture.call(&stranger, Method::GET, "/approvers", None).await.ok(200).json();
    assert_eq!(seen, json!({"groups": [], "chains": []}));
    let removed = fixture.call(&stranger, Method::DELETE, "/approvers/groups/g", None).await;
    removed.problem(404, "not-found");
}
