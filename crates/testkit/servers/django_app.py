"""A Django project in one file; its development server with the reloader: python django_app.py runserver 127.0.0.1:N"""

import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.urls import path

from answer import answer, refuse_to_start_if_told


def root(request):
    return HttpResponse(answer(request.get_full_path()), content_type="application/json")


urlpatterns = [path("", root), path("slow", root)]

if __name__ == "__main__":
    refuse_to_start_if_told()
    quiet = {"version": 1, "disable_existing_loggers": True, "loggers": {"django.server": {"level": "ERROR"}}}
    settings.configure(DEBUG=True, SECRET_KEY="only a test", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], LOGGING=quiet)
    execute_from_command_line(sys.argv)
