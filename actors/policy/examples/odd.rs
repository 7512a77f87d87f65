use std::{sync::Arc,time::Instant};
use aa_policy::*;
use aa_protocol::*;
fn main(){
 let mut docs=vec![];
 for (i,scope) in ["global","org:o","team:t","agent:01234567-89ab-cdef-0123-456789abcdef","tool:bash"].iter().enumerate(){
  let tools:String=(0..16).map(|n|format!("  tool{n}: {{limit_per_hour: 10, requires_approval_if: \"governance_level >= L2\"}}\n")).collect();
  let y=format!("scope: {scope}\nnetwork: {{allowlist: [api.openai.com, '*.slack.com']}}\ncapabilities: {{deny: [terminal_exec]}}\ndata: {{sensitive_patterns: ['sk-[a-zA-Z0-9]{{48}}', '\\b\\d{{3}}-\\d{{2}}-\\d{{4}}\\b']}}\nschedule: {{active_hours: {{start: '00:00', end: '24:00', timezone: America/New_York}}}}\ntools:\n  bash: {{limit_per_hour: 10, requires_approval_if: \"governance_level >= L2 && args.cmd.startsWith('rm')\"}}\n{tools}");
  let c=check(y.as_bytes(),&format!("p{i}")); assert!(c.errors.is_empty(),"{:?}",c.errors); docs.push((Arc::new(c.policy.unwrap()),Some(1)));
 }
 let set=PolicySet::new(docs).unwrap();
 let agent:AgentFacts=serde_json::from_str(r#"{"id":"01234567-89ab-cdef-0123-456789abcdef","org":"o","team":"t","governance_level":"L1"}"#).unwrap();
 let view=set.for_agent(&agent);
 let facts=Facts::of(&agent);
 for (name,a) in [("tool_call",r#"{"kind":"tool_call","tool":"bash","args":{"cmd":"ls -la /tmp","cwd":"/home/x"}}"#),("unlisted",r#"{"kind":"tool_call","tool":"other","args":{"cmd":"ls -la /tmp"}}"#),("connect",r#"{"kind":"network_connect","host":"api.openai.com","port":443}"#),("file",r#"{"kind":"file_read","path":"/etc/hosts"}"#)]{
  let a:Action=serde_json::from_str(a).unwrap();
  let now="2026-11-23T12:00:00Z".parse().unwrap();
  let mut v=Vec::with_capacity(200000);
  for _ in 0..200000{ let t=Instant::now(); let o=decide(&view,&facts,&a,now); v.push(t.elapsed().as_nanos()); std::hint::black_box(o);}
  v.sort(); println!("{name}: p50 {} p99 {} p999 {}",v[100000],v[198000],v[199800]);
 }
}
