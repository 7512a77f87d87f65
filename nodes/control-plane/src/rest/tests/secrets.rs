use super::*;

#[tokio::test]
async fn secrets_go_in_and_never_come_out() {
    let fixture = Fixture::new().await;
    let set = |name: &str, value: &'static str| {
        let request = Request::builder()
            .method(Method::PUT)
            .uri(format!("/api/v1/secrets/{name}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", fixture.owner))
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(Body::from(value));
        fixture.send(request.unwrap())
    };
    let made = set("slack%2Fwebhook", "marker-5512").await.ok(200).json();
    assert_eq!((&made["name"], &made["version"]), (&json!("slack/webhook"), &json!(1)));
    let list = fixture.get("/secrets").await.ok(200);
    assert!(!list.text().contains("marker"));
    let list = list.json();
    assert_eq!(list["secrets"], json!([made]));
    assert_eq!(list["keys"][0]["state"], "active");
    assert_eq!(list["rotation"], json!({"to_rewrap": 0, "to_reseal": 0, "to_retire": 0}));
    let rotating = fixture.post("/vault/rotate", json!({})).await.ok(200).json();
    assert_eq!(rotating["rotation"]["to_reseal"], 1);
    fixture.post("/vault/rotate-master", json!({})).await.ok(200);

    let developer = fixture.key(Grant::Developer).await;
    fixture.call(&developer, Method::GET, "/secrets", None).await.ok(200);
    fixture.call(&developer, Method::POST, "/vault/rotate", None).await.problem(403, "forbidden");
    let released =
        set("r?release_to=API.x.example&release_to=*.y.example&release_team=a%20b", "marker-5513");
    let released = released.await.ok(200).json();
    let rule = json!({"hosts": ["*.y.example", "api.x.example"], "agents": [], "teams": ["a b"]});
    assert_eq!((&released["release"], &released["version"]), (&rule, &json!(2)));
    // Another value goes where the one before went; only the value's owner changes where.
    assert_eq!(set("r", "marker-5514").await.ok(200).json()["release"], rule);
    let elsewhere = set("r?release_to=z.example", "marker-5514").await.ok(200).json();
    assert_eq!(
        (&elsewhere["version"], &elsewhere["release"]["hosts"][0]),
        (&json!(3), &json!("z.example"))
    );
    for wrong in [
        "release_to=*",
        "release_to=a.b:443",
        "release_team=t",
        "release_agent=x",
        "release_too=a.b",
    ] {
        set(&format!("r?{wrong}"), "marker-5514").await.problem(400, "invalid-request");
    }
    fixture
        .call(&developer, Method::DELETE, "/secrets/r/release", None)
        .await
        .problem(403, "forbidden");
    assert!(fixture.delete("/secrets/r/release").await.ok(200).json()["release"].is_null());
    fixture.delete("/secrets/none/release").await.problem(404, "not-found");
    fixture.delete("/secrets/r").await.ok(200);

    set("a%20b", "x").await.problem(400, "invalid-request");
    let empty = set("a", "").await.problem(400, "invalid-request");
    assert!(empty.detail.contains("1 to 65536 bytes"), "{}", empty.detail);
    fixture.put("/secrets/a", json!("x")).await.problem(415, "unsupported-media-type");
    fixture.delete("/secrets/none").await.problem(404, "not-found");
    fixture.delete("/secrets/slack%2Fwebhook").await.ok(200);
    let stranger = fixture.stranger().await;
    let theirs = fixture.call(&stranger, Method::GET, "/secrets", None).await.ok(200).json();
    assert_eq!((&theirs["secrets"], &theirs["keys"]), (&json!([]), &json!([])));
}
