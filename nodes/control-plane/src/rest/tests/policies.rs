use super::*;

const FIRST: &str = "apiVersion: agent-assembly/v1\nkind: Policy\nmetadata:\n  name: tools\n  \
                     version: \"1.0.0\"\nspec:\n  tools:\n    bash:\n      allow: false\n";

fn second() -> String {
    FIRST.replace("1.0.0", "2.0.0")
}

#[tokio::test]
async fn a_policy_is_applied_read_rolled_back_and_removed() {
    let fixture = Fixture::new().await;
    let applied = fixture.apply("", FIRST).await.ok(201);
    assert_eq!(applied.headers[header::LOCATION], "/api/v1/policies/tools");
    let applied = applied.json();
    assert_eq!(
        (&applied["name"], &applied["revision"], &applied["changed"]),
        (&json!("tools"), &json!(1), &json!(true))
    );
    let again = fixture.apply("", FIRST).await.ok(200).json();
    assert_eq!((&again["changed"], &again["revision"]), (&json!(false), &json!(1)));
    fixture.apply("", &second()).await.ok(201);

    let list = fixture.get("/policies").await.ok(200).json();
    let names: Vec<_> = list["policies"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
    assert_eq!(names, ["starter", "tools"]);
    let policy = fixture.get("/policies/tools").await.ok(200).json();
    assert_eq!(
        (&policy["active_revision"], &policy["version"], &policy["source"]),
        (&json!(2), &json!("2.0.0"), &json!(second()))
    );
    let source = fixture.get("/policies/tools/source?revision=1").await.ok(200);
    assert_eq!(source.headers[header::CONTENT_TYPE], "application/yaml");
    assert_eq!(source.text(), FIRST);

    let back = fixture.call(&fixture.owner, Method::POST, "/policies/tools/rollback", None).await;
    let back = back.ok(201).json();
    assert_eq!((&back["revision"], &back["rollback_of"]), (&json!(3), &json!(1)));
    let history = fixture.get("/policies/tools/history").await.ok(200).json();
    assert_eq!(history["active_revision"], 3);
    let revisions = history["revisions"].as_array().unwrap().iter();
    assert_eq!(revisions.map(|r| r["revision"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 2, 1]);

    let removed = fixture.delete("/policies/tools").await.ok(200).json();
    assert_eq!(removed, json!({"name": "tools", "active_revision": null, "latest_revision": 3}));
    fixture.delete("/policies/tools").await.problem(404, "not-found");
    let to_second = fixture.post("/policies/tools/rollback", json!({"to": 2})).await;
    assert_eq!(to_second.ok(201).json()["rollback_of"], 2);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let fixture = Fixture::new().await;
    let dry = fixture.apply("?dry_run=true", FIRST).await.ok(200).json();
    assert_eq!((&dry["changed"], &dry["dry_run"]), (&json!(true), &json!(true)));
    fixture.get("/policies/tools").await.problem(404, "not-found");
}

#[tokio::test]
async fn a_flat_document_takes_the_name_of_its_file() {
    let fixture = Fixture::new().await;
    let applied = fixture.apply("?name=my-file", "scope: global\n").await.ok(201).json();
    assert_eq!(applied["name"], "my-file");
}

#[tokio::test]
async fn an_invalid_document_is_refused_with_every_finding_and_its_place() {
    let fixture = Fixture::new().await;
    let document = "scope: project:x\ncolour: red\napproval_timeout_secs: 0\n";
    let problem = fixture.apply("", document).await.problem(422, "invalid-policy");
    let codes: Vec<_> = problem.errors.iter().map(|e| (e.line, e.code.as_str())).collect();
    assert_eq!(codes, [(1, "invalid_scope"), (3, "out_of_range")]);
    assert_eq!(problem.errors[0].source_line.as_deref(), Some("scope: project:x"));
    assert_eq!((problem.warnings[0].line, problem.warnings[0].code.as_str()), (2, "unknown_key"));
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let fixture = Fixture::new().await;
    let missing = fixture.get("/policies/nothing").await.problem(404, "not-found");
    assert!(missing.detail.contains("`nothing`"), "{}", missing.detail);
    let revision = fixture.get("/policies/starter?revision=9").await.problem(404, "not-found");
    assert!(revision.detail.contains("no revision 9"), "{}", revision.detail);
    fixture.get("/policies/nothing/history").await.problem(404, "not-found");
    fixture.post("/policies/starter/rollback", json!({})).await.problem(409, "conflict");
    let agent = "/agents/01234567-89ab-cdef-0123-456789abcdef";
    fixture.get(agent).await.problem(404, "not-found");
    fixture.post(&format!("{agent}/suspend"), json!({})).await.problem(404, "not-found");
}
