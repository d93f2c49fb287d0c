"""`longattn publish OUT OWNER/NAME`: puts a finished build on the Hub."""

from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import LocalPath, read_command_line, settings
from longattn_hf.pipeline.terminal import OUTPUT, Output


@settings
class PublishSettings:
    """Publishes a finished build as a dataset on the Hub, in one commit, and reads it back.

        longattn publish out/longabc-demo-8k me/longabc-demo-8k --dry_run

    Attributes:
        folder: The build's output folder.
        repo_id: The dataset repository, owner/name; it is created where it does not exist.
        revision: The branch; main if not given.
        create_pr: Open a pull request instead.
        private: Whether a repository that is created is private.
        tag: Names this release.
        dry_run: Only say what would be published.
    """

    folder: LocalPath
    repo_id: str
    revision: str | None = None
    create_pr: bool = False
    private: bool | None = None
    tag: str | None = None
    dry_run: bool = False


def main(arguments: list[str] | None = None) -> None:
    """Runs from the command line."""
    output = Output.read(arguments)
    with refusing("publish", RuntimeError):
        given = read_command_line(PublishSettings, arguments, positional=("folder", "repo_id"), parents=[OUTPUT])
        # here and in the other programs: what takes seconds to load, which help does without
        from longattn_hf.hub.publishing import publish

        with output.speaking():
            publication = publish(
                given.folder,
                given.repo_id,
                revision=given.revision,
                create_pr=given.create_pr,
                private=given.private,
                tag=given.tag,
                dry_run=given.dry_run,
            )
    output.show(publication, publication.facts)


if __name__ == "__main__":
    main()
