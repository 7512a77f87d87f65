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
