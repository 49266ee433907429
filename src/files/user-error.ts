/**
 * A mistake in what the user gave us (a file, a flag, a config field, a checkpoint): the message is one line that
 * names the place, says what was expected and what to do. The command line prints it and exits with code 1; every
 * other error is a defect of this program.
 */
export class UserError extends Error {
  override name = "UserError";
}
