//! Generates the gRPC code from `proto/`. `protox` compiles the descriptors, so no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    #[cfg(feature = "grpc")]
    generate()?;
    Ok(())
}

#[cfg(feature = "grpc")]
fn generate() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = compile("agent_assembly/v1/gateway.proto")?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    // Only what clients may call is shown by reflection.
    std::fs::write(out.join("gateway.bin"), gateway.encode_file_descriptor_set())?;
    for compiler in [gateway, compile("agent_assembly/relay/v1/relay.proto")?] {
        tonic_prost_build::configure()
            .build_transport(false)
            .bytes(".")
            // What holds a secret prints itself.
            .skip_debug([".agent_assembly.v1.ReleaseSecretResponse"])
            .compile_fds(compiler.file_descriptor_set())?;
    }
    Ok(())
}

#[cfg(feature = "grpc")]
fn compile(file: &str) -> Result<protox::Compiler, Box<dyn std::error::Error>> {
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_file(file)?;
    Ok(compiler)
}
