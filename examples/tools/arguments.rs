//! The command line of the tools.

use std::{
    env,
    ffi::{OsStr, OsString},
};

use clap::{Arg, Command, Parser};

use crate::program;

/// The options that this program was started with. What is wrong with them ends it.
pub(crate) fn parse<T: Parser>() -> T {
    let (program, arguments) = keep_values(program::command::<T>(), env::args_os().collect());
    let matches = program::matches(program, arguments);
    T::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Moves what belongs to a command behind a `--`, so that it is taken as it is even if it looks
/// like an option. That is as many arguments as the command wants, straight behind its name, or
/// behind a `--` that nothing else follows.
fn keep_values(program: Command, mut arguments: Vec<OsString>) -> (Command, Vec<OsString>) {
    let Some((at, command)) = find_command(&program, &arguments) else {
        return (program, arguments);
    };
    let mut rest = arguments.split_off(at + 1);
    let wanted = command.get_positionals().count();
    if wanted == 0 || asks_for_help(&rest, wanted) {
        arguments.append(&mut rest);
        return (program, arguments);
    }
    // An argument that may be left out is not there if an option stands in its place.
    let optional = command.get_positionals().any(|one| !one.is_required_set());
    if optional
        && rest
            .first()
            .is_none_or(|first| first.as_encoded_bytes().starts_with(b"-"))
    {
        arguments.append(&mut rest);
        return (program, arguments);
    }
    // A flag of the command itself stands before its key.
    while rest.len() > wanted && find_option(command, &rest[0]).is_some() {
        arguments.push(rest.remove(0));
    }
    // With any other number of arguments behind it, it is the first of them itself.
    if rest.len() == wanted + 1 && rest[0] == "--" {
        rest.remove(0);
    }
    let options = rest.split_off(wanted.min(rest.len()));
    arguments.extend(options);
    arguments.push("--".into());
    arguments.append(&mut rest);
    // Behind the arguments, a request for help would be answered instead of what they ask for.
    let name = command.get_name().to_owned();
    let program = program.mut_subcommand(name, |command| command.disable_help_flag(true));
    (program, arguments)
}

/// A command that wants more than one argument can't be meant where help is all that follows.
fn asks_for_help(rest: &[OsString], wanted: usize) -> bool {
    let [only] = rest else { return false };
    wanted > 1 && (only == "--help" || only == "-h")
}

/// The command, and where its name stands.
fn find_command<'a>(program: &'a Command, arguments: &[OsString]) -> Option<(usize, &'a Command)> {
    let mut at = 1;
    loop {
        let argument = arguments.get(at)?;
        if !argument.as_encoded_bytes().starts_with(b"-") {
            return program
                .find_subcommand(argument)
                .map(|command| (at, command));
        }
        if argument == "--" {
            return None;
        }
        let option = find_option(program, argument);
        at += match option.is_some_and(|option| option.get_action().takes_values()) {
            true => 2,
            false => 1,
        };
    }
}

/// The option that is called so. None has a short name.
fn find_option<'a>(command: &'a Command, argument: &OsStr) -> Option<&'a Arg> {
    let name = argument.to_str()?.strip_prefix("--")?;
    let mut options = command.get_arguments();
    options.find(|option| option.get_long() == Some(name))
}
