//! What the command lines of all programs have in common: the version, and options from the environment.

// Each program uses its own part of this.
#![allow(dead_code)]

use std::{
    env,
    ffi::OsString,
    io::{self, ErrorKind, Write as _},
    path::PathBuf,
    process::{self, ExitCode},
    time::Duration,
};

use clap::{
    Arg, ArgAction, ArgMatches, Command, CommandFactory, Parser, builder::BoolishValueParser,
};
use clap_complete::Shell;

/// An option that asks for something else than the program's work. It has no variable.
const COMPLETIONS: &str = "completions";

const ENVIRONMENT: &str = "\
Each option may also be an environment variable. If no other name stands beside it, --secret-file is \
KEYWIRE_SECRET_FILE, and so on. The command line overrides the environment; an empty variable counts as none.";

/// The version, and the commit if the build was told one in `KEYWIRE_COMMIT`.
pub(crate) fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match option_env!("KEYWIRE_COMMIT") {
        None | Some("") => version.to_owned(),
        Some(commit) => format!("{version} ({commit})"),
    }
}

/// The command line of a program. Its options are also read from the environment.
pub(crate) fn command<T: CommandFactory>() -> Command {
    let command = T::command()
        .name("keywire")
        .version(version())
        .mut_args(from_environment);
    if command.get_arguments().all(Arg::is_positional) {
        return command;
    }
    let help = match command.get_after_help() {
        Some(help) => format!("{help}\n\n{ENVIRONMENT}"),
        None => ENVIRONMENT.to_owned(),
    };
    command.after_help(help)
}

/// The options that the program was started with.
pub(crate) fn parse<T: Parser>() -> T {
    let matches = matches(command::<T>(), env::args_os().collect());
    T::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Help, its version and what is wrong with the options are printed here, and end the program.
pub(crate) fn matches(mut command: Command, arguments: Vec<OsString>) -> ArgMatches {
    command
        .try_get_matches_from_mut(arguments)
        .unwrap_or_else(|said| {
            let code = match said.print() {
                Err(error) if error.kind() != ErrorKind::BrokenPipe => 2,
                _ => said.exit_code(),
            };
            let variables = variables(&command);
            if said.use_stderr() && !variables.is_empty() {
                // The option that is wrong may be one that nobody has typed.
                let variables = variables.join(", ");
                let _ = writeln!(io::stderr(), "Set in the environment: {variables}");
            }
            process::exit(code)
        })
}

/// The options that come from the environment, by the names of their variables. Values are not shown.
fn variables(command: &Command) -> Vec<String> {
    let variables = command.get_arguments().filter_map(Arg::get_env);
    let set = variables.filter(|variable| env::var_os(variable).is_some());
    set.map(|variable| variable.to_string_lossy().into_owned())
        .collect()
}

/// Reads an option from its variable, too. One that differs from the rule stands in the help.
fn from_environment(arg: Arg) -> Arg {
    let Some(name) = arg.get_long().filter(|&name| name != COMPLETIONS) else {
        return arg;
    };
    let by_rule = format!("KEYWIRE_{}", name.replace('-', "_").to_uppercase());
    let (variable, arg) = match arg.get_env() {
        Some(own) => (own.to_owned(), arg.hide_env_values(true)),
        None => (by_rule.into(), arg.hide_env(true)),
    };
    let arg = match arg.get_action() {
        ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
        _ => arg,
    };
    match env::var_os(&variable) {
        Some(value) if value.is_empty() => arg.env(None::<&str>),
        _ => arg.env(variable),
    }
}

/// Prints a script for a shell, for the name by which the program was called.
pub(crate) fn complete<T: CommandFactory>(shell: Shell) -> ExitCode {
    let called = env::args_os().next().map(PathBuf::from);
    let name = called.as_deref().and_then(|path| path.file_name());
    let mut command = command::<T>();
    let name = name.map_or(command.get_name().into(), |name| name.to_string_lossy());
    let (name, mut script) = (name.into_owned(), Vec::new());
    clap_complete::generate(shell, &mut command, name, &mut script);
    match io::stdout().write_all(&script) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => ExitCode::from(2),
        _ => ExitCode::SUCCESS,
    }
}

/// What an option of a time takes.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.001..=1e9).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "it has to be a number of seconds, from 0.001 up".into())
}
