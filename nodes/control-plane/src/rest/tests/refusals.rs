use super::*;

#[tokio::test]
async fn without_a_valid_key_nothing_is_answered() {
    let fixture = Fixture::new().await;
    let owner = &fixture.owner;
    let mut tampered = owner.clone();
    tampered.pop();
    let presented = [
        None,
        Some("Bearer".to_owned()),
        Some("Bearer nonsense".to_owned()),
        Some(format!("Bearer {tampered}")),
        Some(format!("Basic {owner}")),
        Some(owner.clone()),
    ];
    for header in presented {
        let mut request = Request::get("/api/v1/policies");
        if let Some(header) = &header {
            request = request.header(header::AUTHORIZATION, header);
        }
        let answer = fixture.send(request.body(Body::empty()).unwrap()).await;
        let problem = answer.problem(401, "unauthenticated");
        assert!(!problem.detail.contains(tampered.as_str()));
        assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer realm=\"agent-assembly\"");
    }
    let twice = Request::get("/api/v1/policies")
        .header(header::AUTHORIZATION, format!("Bearer {owner}"))
        .header(header::AUTHORIZATION, format!("Bearer {owner}"));
    let answer = fixture.send(twice.body(Body::empty()).unwrap()).await;
    answer.problem(401, "unauthenticated");
}

/// Which roles each route lets in; the others are refused before anything else is looked at.
#[tokio::test]
async fn each_route_takes_the_roles_of_the_specification_and_names_them_in_refusals() {
    use Grant::{Admin, Developer, Owner, Viewer};
    let fixture = Fixture::new().await;
    let readers: &[Grant] = &[Owner, Admin, Developer, Viewer];
    let admins: &[Grant] = &[Owner, Admin];
    let key_makers: &[Grant] = &[Owner, Developer];
    let routes: [(Method, &str, &[Grant]); 44] = [
        (Method::GET, "/metrics", readers),
        (Method::GET, "/policies", readers),
        (Method::GET, "/policies/starter", readers),
        (Method::GET, "/policies/starter/source", readers),
        (Method::GET, "/policies/starter/history", readers),
        (Method::POST, "/policies", admins),
        (Method::POST, "/policies/none/rollback", admins),
        (Method::DELETE, "/policies/none", admins),
        (Method::GET, "/agents", readers),
        (Method::GET, "/agents/x", readers),
        (Method::POST, "/agents/x/suspend", admins),
        (Method::POST, "/agents/x/resume", admins),
        (Method::GET, "/agents/x/spending", readers),
        (Method::GET, "/budgets", readers),
        (Method::GET, "/budgets/teams/x/daily", readers),
        (Method::PUT, "/budgets/teams/x/daily", admins),
        (Method::DELETE, "/budgets/teams/x/daily", admins),
        (Method::GET, "/budgets/workspace/daily", readers),
        (Method::PUT, "/budgets/workspace/daily", admins),
        (Method::DELETE, "/budgets/workspace/daily", admins),
        (Method::GET, "/prices", readers),
        (Method::PUT, "/prices", admins),
        (Method::GET, "/approvals", readers),
        (Method::GET, "/approvals/x", readers),
        (Method::POST, "/approvals/x/approve", readers),
        (Method::POST, "/approvals/x/deny", readers),
        (Method::GET, "/approvers", readers),
        (Method::PUT, "/approvers/groups/x", admins),
        (Method::DELETE, "/approvers/groups/x", admins),
        (Method::PUT, "/approvers/chains/teams/x", admins),
        (Method::DELETE, "/approvers/chains/teams/x", admins),
        (Method::PUT, "/approvers/chains/workspace", admins),
        (Method::DELETE, "/approvers/chains/workspace", admins),
        (Method::GET, "/audit/entries", readers),
        (Method::GET, "/audit/tail", readers),
        (Method::GET, "/audit/export", readers),
        (Method::GET, "/audit/checkpoint", readers),
        (Method::GET, "/audit/keys", readers),
        (Method::GET, "/secrets", &[Owner, Admin, Developer]),
        (Method::DELETE, "/secrets/none", admins),
        (Method::DELETE, "/secrets/none/release", admins),
        (Method::GET, "/keys", key_makers),
        (Method::POST, "/keys", key_makers),
        (Method::DELETE, "/keys/none", key_makers),
    ];
    for grant in Grant::ALL {
        let key = fixture.key(grant).await;
        for (method, path, grants) in &routes {
            let answer = fixture.call(&key, method.clone(), path, None).await;
            if grants.contains(&grant) {
                assert_ne!(answer.status.as_u16(), 403, "{grant} {method} {path}");
                assert_ne!(answer.status.as_u16(), 401, "{grant} {method} {path}");
                continue;
            }
            let detail = answer.problem(403, "forbidden").detail;
            assert!(detail.contains(&format!("role {grant}")), "{detail}");
            let names: Vec<_> = grants.iter().map(|grant| grant.as_str()).collect();
            assert!(
                detail.ends_with(&names.join(" or ")) || detail.contains("it takes"),
                "{detail}"
            );
        }
    }
}

#[tokio::test]
async fn what_the_router_refuses_is_a_problem_too() {
    let fixture = Fixture::new().await;
    for path in ["/nothing", "/policies/", "/policies/a/b/c"] {
        fixture.get(path).await.problem(404, "not-found");
    }
    let root = fixture.send(Request::get("/").body(Body::empty()).unwrap()).await;
    root.problem(404, "not-found");
    let key = &fixture.owner;
    let answer = fixture.call(key, Method::PATCH, "/policies", None).await;
    let problem = answer.problem(405, "method-not-allowed");
    assert!(problem.detail.contains("does not take PATCH"), "{}", problem.detail);
    assert_eq!(answer.headers[header::ALLOW], "GET,HEAD,POST");
}

#[tokio::test]
async fn a_malformed_request_is_refused_with_what_was_expected() {
    let fixture = Fixture::new().await;
    for path in [
        "/agents?limit=0",
        "/agents?limit=1001",
        "/agents?limit=x",
        "/agents?colour=red",
        "/agents/not-a-uuid",
        "/agents/%ff",
        "/audit/entries?kind=nonsense",
        "/audit/entries?verdict=maybe",
        "/audit/entries?since=yesterday",
        "/audit/entries?cursor=x",
        "/audit/entries?event=evt_x",
        "/audit/export?format=xml",
        "/policies/starter?revision=-1",
        "/agents/not-a-uuid/spending",
        "/budgets?limit=0",
        "/budgets?after=nowhere",
        "/budgets?colour=red",
        "/budgets/teams/x/fortnightly",
        "/budgets/teams/a%00b/daily",
        "/budgets/workspace/yearly",
        "/prices?colour=red",
        "/approvals?state=approved",
        "/approvals?limit=0",
        "/approvals?limit=101",
        "/approvals?after=x",
        "/approvals?colour=red",
        "/approvals/not-a-uuid",
    ] {
        fixture.get(path).await.problem(400, "invalid-request");
    }
    let long = format!("/policies/{}", "a".repeat(129));
    fixture.get(&long).await.problem(400, "invalid-request");
    for body in [
        json!({"name": "x"}),
        json!({"name": "x", "role": "king"}),
        json!({"name": "", "role": "viewer"}),
        json!({"name": "a\u{1b}b", "role": "viewer"}),
        json!({"name": "x".repeat(101), "role": "viewer"}),
        json!({"name": "x", "role": "viewer", "more": 1}),
        json!([]),
    ] {
        fixture.post("/keys", body).await.problem(400, "invalid-request");
    }
    for body in ["", "{", "{\"name\":\"a\",\"name\":\"b\",\"role\":\"viewer\"}", "\u{0}"] {
        let content = Some(("application/json", body.as_bytes().to_vec()));
        let answer = fixture.call(&fixture.owner, Method::POST, "/keys", content).await;
        answer.problem(400, "invalid-request");
    }
    let content = Some(("application/json", vec![0xff, 0xfe]));
    let answer = fixture.call(&fixture.owner, Method::POST, "/keys", content).await;
    answer.problem(400, "invalid-request");
}

#[tokio::test]
async fn a_whole_key_given_as_an_id_is_not_repeated() {
    let fixture = Fixture::new().await;
    let owner = fixture.owner.clone();
    let problem = fixture.delete(&format!("/keys/{owner}")).await.problem(400, "invalid-request");
    assert!(!problem.detail.contains(&owner));
}

#[tokio::test]
async fn a_body_of_a_wrong_type_is_refused() {
    let fixture = Fixture::new().await;
    let key = &fixture.owner;
    for (path, content_type) in [
        ("/keys", "text/plain"),
        ("/policies", "multipart/form-data"),
        ("/policies", "application/x-www-form-urlencoded"),
        ("/policies/starter/rollback", "text/yaml"),
    ] {
        let content = Some((content_type, b"x".to_vec()));
        let answer = fixture.call(key, Method::POST, path, content).await;
        answer.problem(415, "unsupported-media-type");
    }
    let content =
        Some(("application/json; charset=utf-8", b"{\"name\":\"x\",\"role\":\"viewer\"}".to_vec()));
    fixture.call(key, Method::POST, "/keys", content).await.ok(201);
}

#[tokio::test]
async fn a_body_past_its_bound_is_refused() {
    let fixture = Fixture::new().await;
    let key = &fixture.owner;
    let big = |bytes: usize| format!("# {}\nscope: global\n", "x".repeat(bytes)).into_bytes();
    let content = Some(("application/json", vec![b' '; (64 << 10) + 1]));
    let answer = fixture.call(key, Method::POST, "/keys", content).await;
    answer.problem(413, "body-too-large");
    let content = Some(("application/yaml", big(2 << 20)));
    let answer = fixture.call(key, Method::POST, "/policies", content).await;
    answer.problem(413, "body-too-large");
    // Just past a document's own bound, the check says so.
    let content = Some(("application/yaml", big(1 << 20)));
    let answer = fixture.call(key, Method::POST, "/policies", content).await;
    assert_eq!(answer.problem(422, "invalid-policy").errors[0].code, "too_large");
}

#[tokio::test]
async fn past_the_bound_of_requests_callers_are_told_to_come_back() {
    let fixture = Fixture::new().await;
    let fixture = fixture.with(|state| state.requests = Arc::new(Semaphore::new(0)));
    let answer = fixture.get("/policies").await;
    answer.problem(503, "overloaded");
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
}

#[tokio::test]
async fn past_the_bound_of_exports_callers_are_told_to_come_back() {
    let fixture = Fixture::new().await;
    let fixture = fixture.with(|state| state.exports = Arc::new(Semaphore::new(0)));
    fixture.get("/audit/export").await.problem(503, "overloaded");
}

#[tokio::test]
async fn while_the_store_does_not_answer_callers_are_told_to_come_back() {
    let store = MemoryStore::new();
    let faults = store.faults().clone();
    let fixture = Fixture::over(store, GovernanceOptions::default()).await;
    faults.set_unavailable(true);
    for path in ["/health", "/policies", "/audit/entries"] {
        let answer = fixture.get(path).await;
        answer.problem(503, "unavailable");
        assert!(answer.headers.contains_key(header::RETRY_AFTER), "{path}");
    }
    faults.set_unavailable(false);
    fixture.get("/health").await.ok(200);
}

#[tokio::test]
async fn past_the_bound_of_uploads_callers_are_told_to_come_back() {
    let fixture = Fixture::new().await;
    let fixture = fixture.with(|state| state.uploads = Arc::new(Semaphore::new(0)));
    let answer = fixture.apply("", "scope: global\n").await;
    answer.problem(503, "overloaded");
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
}

#[tokio::test]
async fn an_address_that_keeps_failing_is_throttled_and_a_valid_key_from_it_is_not() {
    let fixture = Fixture::new().await;
    let from = |peer: [u8; 4], key: &str| {
        let mut request = Request::get("/api/v1/policies")
            .header(header::AUTHORIZATION, format!("Bearer {key}"))
            .body(Body::empty())
            .unwrap();
        request.extensions_mut().insert(PeerAddress(peer.into()));
        fixture.send(request)
    };
    let (attacker, other) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    let burst = FailureRate::default().burst;
    for _ in 0..burst {
        from(attacker, "aak_guess_0").await.problem(401, "unauthenticated");
    }
    let mut answer = from(attacker, "aak_guess_1").await;
    // Meanwhile the rate may have made room for a few.
    for _ in 0..burst {
        if answer.status != 401 {
            break;
        }
        answer = from(attacker, "aak_guess_1").await;
    }
    let problem = answer.problem(429, "too-many-failures");
    assert!(problem.detail.contains("present a valid credential, or wait"), "{}", problem.detail);
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    from(other, "aak_guess_2").await.problem(401, "unauthenticated");
    from(attacker, &fixture.owner).await.ok(200);
    let metrics = fixture.get("/metrics").await.ok(200);
    assert!(!metrics.text().contains("{answer=\"throttled\"} 0\n"));
}
